#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string_view>

#include "text/ranked_merges.h"
#include "text/scored_merges.h"

namespace nb = nanobind;

namespace trivet {
namespace {

using ByteTokens = std::array<std::int32_t, 256>;

// The UTF-8 of a str, which lives as long as that.
std::string_view view(nb::handle text) {
  Py_ssize_t size;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (data == nullptr) throw nb::python_error();
  return {data, static_cast<std::size_t>(size)};
}

std::vector<std::string_view> views(nb::list texts) {
  std::vector<std::string_view> out;
  out.reserve(texts.size());
  for (nb::handle text : texts) out.push_back(view(text));
  return out;
}

template <typename Encoder>
std::vector<std::int32_t> encode(const Encoder& encoder, nb::list texts) {
  const std::vector<std::string_view> words = views(texts);
  std::vector<std::int32_t> out;
  nb::gil_scoped_release release;
  std::vector<Piece> scratch;
  for (const std::string_view word : words) encoder.encode(word, scratch, out);
  return out;
}

// The strings at data[position, ..), each after its length (u64, little-endian), up to the first that is not
// whole or not UTF-8; and where they end.
nb::tuple read_strings(nb::handle data, std::size_t position, std::size_t count) {
  Py_buffer buffer;
  if (PyObject_GetBuffer(data.ptr(), &buffer, PyBUF_SIMPLE) != 0) throw nb::python_error();
  const std::unique_ptr<Py_buffer, decltype(&PyBuffer_Release)> release(&buffer, &PyBuffer_Release);
  const auto* bytes = static_cast<const char*>(buffer.buf);
  const std::size_t size = static_cast<std::size_t>(buffer.len);
  nb::list strings;
  for (; count > 0 && position <= size && size - position >= sizeof(std::uint64_t); --count) {
    std::uint64_t length;
    std::memcpy(&length, bytes + position, sizeof length);
    if (length > size - position - sizeof length) break;
    PyObject* text =
        PyUnicode_DecodeUTF8(bytes + position + sizeof length, static_cast<Py_ssize_t>(length), nullptr);
    if (text == nullptr) {
      if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) throw nb::python_error();
      PyErr_Clear();
      break;
    }
    strings.append(nb::steal(text));
    position += sizeof length + length;
  }
  return nb::make_tuple(strings, position);
}

}  // namespace

void bind_text(nb::module_& m) {
  m.def("read_strings", &read_strings, nb::arg("data"), nb::arg("position"), nb::arg("count"),
        "Up to `count` strings of a GGUF file from `position` on, each after its length, as far as they are "
        "whole and "
        "valid UTF-8.\n\nReturns them and where they end.");
  nb::class_<RankedMerges>(m, "RankedMerges",
                           "Byte-pair encoding by a list of merges (native/text/ranked_merges.h).")
      .def(
          "__init__",
          [](RankedMerges* self, nb::list tokens, nb::list merges, const ByteTokens& byte_tokens,
             bool byte_level, bool whole_words) {
            const std::vector<std::string_view> texts = views(tokens), pairs = views(merges);
            nb::gil_scoped_release release;  // the lists are the caller's own, and their texts do not change
            new (self) RankedMerges(texts, pairs, byte_tokens, byte_level, whole_words);
          },
          nb::arg("tokens"), nb::arg("merges"), nb::arg("byte_tokens"), nb::arg("byte_level"),
          nb::arg("whole_words"))
      .def("encode", &encode<RankedMerges>, nb::arg("words"), "The ids of each word, one after the other.");
  nb::class_<ScoredMerges>(m, "ScoredMerges",
                           "SentencePiece's merges by score (native/text/scored_merges.h).")
      .def(
          "__init__",
          [](ScoredMerges* self, nb::list tokens, const std::vector<float>& scores,
             const ByteTokens& byte_tokens, std::int32_t unknown) {
            if (scores.size() != tokens.size())
              throw std::invalid_argument("one score is needed for each token");
            new (self) ScoredMerges(views(tokens), scores, byte_tokens, unknown);
          },
          nb::arg("tokens"), nb::arg("scores"), nb::arg("byte_tokens"), nb::arg("unknown"))
      .def("encode", &encode<ScoredMerges>, nb::arg("texts"), "The ids of each text, one after the other.");
}

}  // namespace trivet
