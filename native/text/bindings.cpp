#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "text/ranked_merges.h"
#include "text/scored_merges.h"
#include "text/utf8.h"

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

class Buffer {
 public:
  explicit Buffer(nb::handle data) {
    if (PyObject_GetBuffer(data.ptr(), &buffer_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  ~Buffer() { PyBuffer_Release(&buffer_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::string_view bytes() const {
    return {static_cast<const char*>(buffer_.buf), static_cast<std::size_t>(buffer_.len)};
  }

 private:
  Py_buffer buffer_;
};

// Calls take(string) for the strings at data[position, ..), each after its length (u64, little-endian), until
// one is not whole, or take returns false. Returns how many it took, and where they end.
template <typename Take>
std::pair<std::size_t, std::size_t> each_string(std::string_view data, std::size_t position,
                                                std::size_t count, Take take) {
  std::size_t taken = 0;
  for (; taken < count && position <= data.size() && data.size() - position >= sizeof(std::uint64_t);
       ++taken) {
    std::uint64_t length;
    std::memcpy(&length, data.data() + position, sizeof length);
    if (length > data.size() - position - sizeof length) break;
    if (!take(data.substr(position + sizeof length, length))) break;
    position += sizeof length + length;
  }
  return {taken, position};
}

std::pair<std::size_t, std::size_t> skip_strings(nb::handle data, std::size_t position, std::size_t count) {
  const Buffer buffer(data);
  nb::gil_scoped_release release;
  return each_string(buffer.bytes(), position, count, valid_utf8);
}

nb::list read_strings(nb::handle data, std::size_t position, std::size_t count) {
  const Buffer buffer(data);
  nb::list strings;
  each_string(buffer.bytes(), position, count, [&](std::string_view bytes) {
    PyObject* text = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), nullptr);
    if (text == nullptr) throw nb::python_error();
    strings.append(nb::steal(text));
    return true;
  });
  return strings;
}

}  // namespace

void bind_text(nb::module_& m) {
  m.def("skip_strings", &skip_strings, nb::arg("data"), nb::arg("position"), nb::arg("count"),
        "How many of `count` strings of a GGUF file from `position` on, each after its length, are whole and "
        "valid UTF-8,\nup to the first that is not; and where these end.");
  m.def("read_strings", &read_strings, nb::arg("data"), nb::arg("position"), nb::arg("count"),
        "Those strings. UnicodeDecodeError for one that is not valid.");
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
