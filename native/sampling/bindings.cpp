// Reads SampleRow objects of trivet.engine.plan and samples a batch with the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "program/program.h"
#include "sampling/edits.h"
#include "sampling/sampler.h"
#include "sampling/softmax.h"
#include "sampling/stages.h"

namespace nb = nanobind;

namespace trivet {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename T>
T get(nb::handle object, const char* name) {
  return nb::cast<T>(object.attr(name));
}

using TokenList = std::vector<std::int32_t>;
using TokenLists = std::vector<TokenList>;

template <typename T>
std::vector<T> get_list(nb::handle object, const char* name) {
  return get<std::optional<std::vector<T>>>(object, name).value_or(std::vector<T>());
}

// From trivet.sampling.params.SamplingParams, whose texts are given as tokens.
void make_chain(Chain* chain, nb::handle source, TokenLists bad_words,
                const std::vector<std::pair<TokenList, TokenList>>& dry_breakers, TokenList end_tokens,
                nb::bytes piece_parents) {
  Chain c;
  for (nb::handle stage : source.attr("stages"))
    c.stages.push_back(stage_named(nb::cast<const char*>(stage)));
  c.temperature = get<float>(source, "temperature");
  c.dynatemp_range = get<float>(source, "dynatemp_range");
  c.dynatemp_exponent = get<float>(source, "dynatemp_exponent");
  c.top_k = get<std::int64_t>(source, "top_k");
  c.top_p = get<float>(source, "top_p");
  c.min_p = get<float>(source, "min_p");
  c.typical_p = get<float>(source, "typical_p");
  c.top_n_sigma = get<float>(source, "top_n_sigma");
  c.min_keep = get<std::size_t>(source, "min_keep");
  c.xtc_probability = get<float>(source, "xtc_probability");
  c.xtc_threshold = get<float>(source, "xtc_threshold");
  c.repetition_penalty = get<float>(source, "repetition_penalty");
  c.frequency_penalty = get<float>(source, "frequency_penalty");
  c.presence_penalty = get<float>(source, "presence_penalty");
  c.penalty_last_n = get<std::int64_t>(source, "penalty_last_n");
  c.dry_multiplier = get<float>(source, "dry_multiplier");
  c.dry_base = get<float>(source, "dry_base");
  c.dry_allowed_length = get<std::int64_t>(source, "dry_allowed_length");
  c.dry_penalty_last_n = get<std::int64_t>(source, "dry_penalty_last_n");
  for (const auto& [first, tail] : dry_breakers) c.dry_breakers.add(first, tail);
  c.mirostat = get<std::int64_t>(source, "mirostat");
  c.mirostat_tau = get<double>(source, "mirostat_tau");
  c.mirostat_eta = get<double>(source, "mirostat_eta");
  c.adaptive_target = get<double>(source, "adaptive_target");
  c.adaptive_decay = get<double>(source, "adaptive_decay");
  c.watermark = get<bool>(source, "watermark");
  if (nb::object bias = source.attr("logit_bias"); !bias.is_none()) {
    for (auto [id, value] : nb::cast<nb::dict>(bias)) {
      c.logit_bias.emplace_back(nb::cast<std::int32_t>(id), nb::cast<float>(value));
    }
  }
  c.allowed = get_list<std::int32_t>(source, "allowed_token_ids");
  std::erase_if(bad_words, [](const auto& word) { return word.empty(); });
  c.bad_words = std::move(bad_words);
  c.end_tokens = std::move(end_tokens);
  c.piece_parents.resize(piece_parents.size() / sizeof(std::int32_t));
  std::memcpy(c.piece_parents.data(), piece_parents.data(), c.piece_parents.size() * sizeof(std::int32_t));
  c.logprobs = get<std::optional<std::int64_t>>(source, "logprobs");
  c.prompt_logprobs = get<std::optional<std::int64_t>>(source, "prompt_logprobs");
  c.logprob_ids = get_list<std::int32_t>(source, "logprob_token_ids");
  c.processed_logprobs = get<std::string>(source, "logprobs_mode") == "processed";
  c.compile();
  new (chain) Chain(std::move(c));
}

SampleRow read_row(nb::handle source) {
  SampleRow row;
  row.chain = get<const Chain*>(source.attr("chain"), "native");  // kept alive by the row
  row.target = get<std::int32_t>(source, "target");
  // Seeds are any 64-bit integer, signed or not.
  row.seed = PyLong_AsUnsignedLongLongMask(nb::object(source.attr("seed")).ptr());
  if (PyErr_Occurred()) throw nb::python_error();
  row.position = get<std::uint64_t>(source, "position");
  row.prompt_len = get<std::size_t>(source, "prompt_len");
  if (row.target < 0 && row.chain->needs_history) {
    Tokens tokens;  // kept alive by the row, as nothing is converted
    if (!nb::try_cast(source.attr("tokens"), tokens, false))
      throw std::invalid_argument("sample: a row's tokens must be a contiguous array of int32");
    if (row.position > tokens.size())
      throw std::invalid_argument("sample: a row has fewer tokens than its position");
    row.history = {tokens.data(), static_cast<std::size_t>(row.position)};
  }
  for (nb::handle id : source.attr("suppressed")) row.suppressed.push_back(nb::cast<std::int32_t>(id));
  if (nb::object state = source.attr("state"); nb::len(state) > 0) {
    const auto [first, second] = nb::cast<std::pair<double, double>>(state);
    row.state = {first, second};
  }
  return row;
}

std::vector<SampleRow> read_rows(nb::sequence rows) {
  std::vector<SampleRow> out;
  for (nb::handle row : rows) out.push_back(read_row(row));
  return out;
}

std::vector<SampleRow> read_rows(const Logits& logits, nb::sequence rows) {
  std::vector<SampleRow> out = read_rows(rows);
  if (logits.shape(1) == 0) throw std::invalid_argument("sample: rows of no logits");
  if (out.size() != logits.shape(0)) {
    throw std::invalid_argument("sample: " + std::to_string(logits.shape(0)) + " rows of logits for " +
                                std::to_string(out.size()) + " sample rows");
  }
  return out;
}

// Scores for which another thread is worth waking.
constexpr std::size_t kMemberScores = 32 << 10;

std::vector<Sample> sample_rows(const Logits& logits, const std::vector<SampleRow>& rows, Program* program) {
  const std::size_t vocab = logits.shape(1);
  std::vector<Sample> samples(rows.size());
  const auto threads = static_cast<std::size_t>(program == nullptr ? 1 : program->threads());
  const std::size_t members = std::clamp<std::size_t>(
      rows.size() * vocab / kMemberScores, 1, std::min(threads, std::max<std::size_t>(rows.size(), 1)));
  std::vector<Sampler> samplers(members, Sampler(static_cast<std::int32_t>(vocab)));
  const auto one = [&](int member, std::int64_t r) {
    samples[r] = samplers[member].sample(logits.data() + r * vocab, rows[r]);
  };
  const auto count = static_cast<std::int64_t>(rows.size());
  if (members > 1) {
    program->for_each(count, static_cast<int>(members), one);
  } else {
    for (std::int64_t r = 0; r < count; ++r) one(0, r);
  }
  return samples;
}

nb::list sample(const Logits& logits, nb::sequence rows, Program* program) {
  const std::vector<SampleRow> inputs = read_rows(logits, rows);
  std::vector<Sample> samples;
  {
    nb::gil_scoped_release release;
    samples = sample_rows(logits, inputs, program);
  }
  nb::list out;
  for (const Sample& s : samples) {
    nb::object logprobs = nb::none(), state = nb::none();
    if (s.logprobs)
      logprobs = nb::make_tuple(s.token, s.logprobs->logprob, s.logprobs->rank, s.logprobs->top);
    if (s.state) state = nb::make_tuple((*s.state)[0], (*s.state)[1]);
    out.append(nb::make_tuple(s.token, logprobs, s.error ? nb::object(nb::str(s.error)) : nb::none(), state));
  }
  return out;
}

nb::ndarray<nb::numpy, float, nb::ndim<2>> probabilities(const Logits& logits, nb::sequence rows) {
  const std::vector<SampleRow> inputs = read_rows(logits, rows);
  const std::size_t vocab = logits.shape(1);
  auto* out = new float[inputs.size() * vocab]();
  nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  Sampler sampler(static_cast<std::int32_t>(vocab));
  for (std::size_t r = 0; r < inputs.size(); ++r) {
    const auto left = sampler.candidates(logits.data() + r * vocab, inputs[r]);
    if (left.empty()) continue;
    const float max = max_logit(left);
    const double sum = sum_exp(left, max);
    for (const Candidate& c : left)
      out[r * vocab + c.id] = static_cast<float>(exp_nonpositive(c.logit - max) / sum);
  }
  return nb::ndarray<nb::numpy, float, nb::ndim<2>>(out, {inputs.size(), vocab}, owner);
}

nb::ndarray<nb::numpy, std::int32_t, nb::ndim<2>> token_edits(std::int32_t vocab_size, nb::sequence rows,
                                                              const std::vector<std::int32_t>& indices) {
  const std::vector<SampleRow> inputs = read_rows(rows);
  if (inputs.size() != indices.size()) throw std::invalid_argument("token_edits: an index for each row");
  auto* edits = new std::vector<TokenEdit>();
  nb::capsule owner(edits, [](void* p) noexcept { delete static_cast<std::vector<TokenEdit>*>(p); });
  {
    nb::gil_scoped_release release;
    EditCollector collector(vocab_size);
    for (std::size_t r = 0; r < inputs.size(); ++r) collector.collect(indices[r], inputs[r], *edits);
  }
  constexpr std::size_t kWords = sizeof(TokenEdit) / sizeof(std::int32_t);
  return nb::ndarray<nb::numpy, std::int32_t, nb::ndim<2>>(edits->data(), {edits->size(), kWords}, owner);
}

const char* name_of_selector(Selector selector) {
  switch (selector) {
    case Selector::draw:
      return "draw";
    case Selector::mirostat_v1:
      return "mirostat_v1";
    case Selector::mirostat_v2:
      return "mirostat_v2";
    case Selector::adaptive_p:
      return "adaptive_p";
  }
  return "";
}

}  // namespace

void bind_sampling(nb::module_& m) {
  nb::class_<Chain>(m, "Chain")
      .def("__init__", &make_chain, nb::arg("params"), nb::arg("bad_words"), nb::arg("dry_breakers"),
           nb::arg("end_tokens"), nb::arg("piece_parents"),
           "The stages that SamplingParams ask for; its texts are given as token sequences.")
      .def_ro("needs_history", &Chain::needs_history)
      .def_prop_ro(
          "stages",
          [](const Chain& chain) {
            std::vector<std::string> names;
            for (Stage stage : chain.stages) names.emplace_back(name_of(stage));
            return names;
          },
          "Those that do something, in order.")
      .def_prop_ro(
          "selector", [](const Chain& chain) { return name_of_selector(chain.selector); },
          "How one of the candidates is chosen: draw, mirostat_v1, mirostat_v2 or adaptive_p.")
      .def_prop_ro(
          "first_state",
          [](const Chain& chain) -> std::optional<std::pair<double, double>> {
            const auto state = first_state(chain);
            if (!state) return std::nullopt;
            return std::pair((*state)[0], (*state)[1]);
          },
          "The selector's before the first choice; None where it keeps nothing.")
      .def_ro("plainly_greedy", &Chain::plainly_greedy,
              "Whether the best logit wins as it stands, where no token is suppressed.");
  m.def("sample", &sample, nb::arg("logits"), nb::arg("rows"), nb::arg("program") = nb::none(),
        "Sample each row of logits [R, V] (float32) as rows[r] (trivet.engine.plan.SampleRow) says, on "
        "the threads of `program`, which must not run meanwhile, or on this one.\n\n"
        "Returns R tuples (token, logprobs or None, error or None, state or None); logprobs is (token, "
        "logprob, rank, "
        "top), state that of the row of the next token.");
  m.def("token_edits", &token_edits, nb::arg("vocab_size"), nb::arg("rows"), nb::arg("indices"),
        "What SampleRows change of single tokens: TokenEdits (native/sampling/edits.h) as words [N, 5], with "
        "indices[r] for rows[r].");
  m.def("probabilities", &probabilities, nb::arg("logits"), nb::arg("rows"),
        "The distribution [R, V] that the stages of each row leave.");
}

}  // namespace trivet
