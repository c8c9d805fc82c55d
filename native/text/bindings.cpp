#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "text/ranked_merges.h"
#include "text/scored_merges.h"
#include "text/token_table.h"
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

// Strings of a GGUF file, which stay there.
class EncodedStrings {
 public:
  // Those at data[position, ..), each after its length (u64, little-endian), until one is not whole and
  // valid.
  EncodedStrings(nb::handle data, std::size_t position, std::size_t count) : buffer_(data), end_(position) {
    nb::gil_scoped_release release;
    const std::string_view bytes = buffer_.bytes();
    if (end_ <= bytes.size()) texts_.reserve(std::min(count, (bytes.size() - end_) / sizeof(std::uint64_t)));
    while (texts_.size() < count && end_ <= bytes.size() && bytes.size() - end_ >= sizeof(std::uint64_t)) {
      std::uint64_t length;
      std::memcpy(&length, bytes.data() + end_, sizeof length);
      if (length > bytes.size() - end_ - sizeof length) break;
      const std::string_view text = bytes.substr(end_ + sizeof length, length);
      if (!valid_utf8(text)) break;
      texts_.push_back(text);
      end_ += sizeof length + length;
    }
  }

  const std::vector<std::string_view>& texts() const { return texts_; }
  std::size_t end() const { return end_; }

 private:
  Buffer buffer_;
  std::vector<std::string_view> texts_;
  std::size_t end_;
};

nb::object decode(std::string_view text) {
  PyObject* decoded = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), nullptr);
  if (decoded == nullptr) throw nb::python_error();
  return nb::steal(decoded);
}

// Of a list of str, or of EncodedStrings; they live as long as that.
std::vector<std::string_view> views(nb::handle texts) {
  if (nb::isinstance<EncodedStrings>(texts)) return nb::cast<const EncodedStrings&>(texts).texts();
  std::vector<std::string_view> out;
  out.reserve(nb::len(texts));
  for (nb::handle text : nb::cast<nb::list>(texts)) out.push_back(view(text));
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

}  // namespace

void bind_text(nb::module_& m) {
  nb::class_<EncodedStrings>(m, "EncodedStrings",
                             "Strings of a GGUF file, each after its length, that stay there until one is "
                             "asked for. Where one is\nnot whole or not valid UTF-8, only those before it.")
      .def(nb::init<nb::handle, std::size_t, std::size_t>(), nb::arg("data"), nb::arg("position"),
           nb::arg("count"))
      .def_prop_ro("end", &EncodedStrings::end, "Where they end.")
      .def("__len__", [](const EncodedStrings& self) { return self.texts().size(); })
      .def(
          "__getitem__",
          [](const EncodedStrings& self, Py_ssize_t index) {
            const auto size = static_cast<Py_ssize_t>(self.texts().size());
            if (index < -size || index >= size) throw nb::index_error();
            return decode(self.texts()[static_cast<std::size_t>(index < 0 ? index + size : index)]);
          },
          nb::arg("index"))
      .def(
          "decode",
          [](const EncodedStrings& self) {
            nb::list strings;
            for (const std::string_view text : self.texts()) strings.append(decode(text));
            return strings;
          },
          "All of them.");
  nb::class_<TokenTable>(m, "TokenTable",
                         "The texts of a vocabulary to their ids; of equal ones to the last.")
      .def(
          "__init__",
          [](TokenTable* self, nb::object tokens) {
            const std::vector<std::string_view> texts = views(tokens);
            nb::gil_scoped_release release;
            new (self) TokenTable(texts);
          },
          nb::arg("tokens"))
      .def("__contains__",
           [](const TokenTable& self, nb::str text) { return self.find(view(text)) != kNone; })
      .def("__getitem__",
           [](const TokenTable& self, nb::str text) {
             const std::int32_t id = self.find(view(text));
             if (id == kNone) throw nb::key_error(text.c_str());
             return id;
           })
      .def(
          "get",
          [](const TokenTable& self, nb::str text, std::int32_t otherwise) {
            const std::int32_t id = self.find(view(text));
            return id == kNone ? otherwise : id;
          },
          nb::arg("text"), nb::arg("otherwise"));
  nb::class_<RankedMerges>(m, "RankedMerges",
                           "Byte-pair encoding by a list of merges (native/text/ranked_merges.h).")
      .def(
          "__init__",
          [](RankedMerges* self, nb::object tokens, nb::object merges, const ByteTokens& byte_tokens,
             bool byte_level, bool whole_words) {
            const std::vector<std::string_view> texts = views(tokens), pairs = views(merges);
            nb::gil_scoped_release release;  // the caller keeps the texts, which do not change
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
