// Reads SampleRow objects of trivet.engine.plan and samples a batch with the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "sampling/sampler.h"
#include "sampling/softmax.h"

namespace nb = nanobind;

namespace trivet {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Stage stage_named(std::string_view name) {
  constexpr std::pair<std::string_view, Stage> kStages[] = {
      {"penalties", Stage::penalties}, {"temperature", Stage::temperature}, {"top_k", Stage::top_k},
      {"top_p", Stage::top_p},         {"min_p", Stage::min_p},             {"typical_p", Stage::typical_p}};
  for (const auto& [known, stage] : kStages) {
    if (known == name) return stage;
  }
  throw std::invalid_argument("unknown sampling stage '" + std::string(name) + "'");
}

template <typename T>
T get(nb::handle object, const char* name) {
  return nb::cast<T>(object.attr(name));
}

SamplerParams read_params(nb::handle source, bool is_target) {
  SamplerParams p;
  for (nb::handle stage : source.attr("stages")) p.stages.push_back(stage_named(nb::cast<const char*>(stage)));
  p.temperature = get<float>(source, "temperature");
  p.top_k = get<std::int64_t>(source, "top_k");
  p.top_p = get<float>(source, "top_p");
  p.min_p = get<float>(source, "min_p");
  p.typical_p = get<float>(source, "typical_p");
  p.repetition_penalty = get<float>(source, "repetition_penalty");
  p.frequency_penalty = get<float>(source, "frequency_penalty");
  p.presence_penalty = get<float>(source, "presence_penalty");
  p.penalty_last_n = get<std::int64_t>(source, "penalty_last_n");
  const char* logprobs = is_target ? "prompt_logprobs" : "logprobs";
  p.logprobs = get<std::optional<std::int64_t>>(source, logprobs).value_or(SamplerParams::kNoLogprobs);
  if (nb::object bias = source.attr("logit_bias"); !bias.is_none()) {
    for (auto [id, value] : nb::cast<nb::dict>(bias)) {
      p.logit_bias.emplace_back(nb::cast<std::int32_t>(id), nb::cast<float>(value));
    }
  }
  if (nb::object allowed = source.attr("allowed_token_ids"); !allowed.is_none()) {
    p.allowed = nb::cast<std::vector<std::int32_t>>(allowed);
  }
  return p;
}

SampleRow read_row(nb::handle source) {
  SampleRow row;
  row.target = get<std::int32_t>(source, "target");
  row.params = read_params(source.attr("params"), row.target >= 0);
  // Seeds are any 64-bit integer, signed or not.
  row.seed = PyLong_AsUnsignedLongLongMask(nb::object(source.attr("seed")).ptr());
  if (PyErr_Occurred()) throw nb::python_error();
  row.position = get<std::uint64_t>(source, "position");
  row.prompt_len = get<std::size_t>(source, "prompt_len");
  const auto history = get<Tokens>(source, "history");  // kept alive by the plan
  row.history = {history.data(), history.size()};
  for (nb::handle id : source.attr("suppressed")) row.suppressed.push_back(nb::cast<std::int32_t>(id));
  return row;
}

std::vector<SampleRow> read_rows(const Logits& logits, nb::sequence rows) {
  std::vector<SampleRow> out;
  for (nb::handle row : rows) out.push_back(read_row(row));
  if (out.size() != logits.shape(0)) {
    throw std::invalid_argument("sample: " + std::to_string(logits.shape(0)) + " rows of logits for " +
                                std::to_string(out.size()) + " sample rows");
  }
  return out;
}

nb::list sample(const Logits& logits, nb::sequence rows) {
  const std::vector<SampleRow> inputs = read_rows(logits, rows);
  std::vector<Sample> samples(inputs.size());
  {
    nb::gil_scoped_release release;
    Sampler sampler(static_cast<std::int32_t>(logits.shape(1)));
    for (std::size_t r = 0; r < inputs.size(); ++r) {
      samples[r] = sampler.sample(logits.data() + r * logits.shape(1), inputs[r]);
    }
  }
  nb::list out;
  for (const Sample& s : samples) {
    nb::object logprobs = nb::none();
    if (s.has_logprobs) logprobs = nb::make_tuple(s.token, s.logprob, s.rank, s.top);
    out.append(nb::make_tuple(s.token, logprobs, s.error ? nb::object(nb::str(s.error)) : nb::none()));
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
    float max = left.front().logit;
    for (const Candidate& c : left) max = std::max(max, c.logit);
    double sum = 0;
    for (const Candidate& c : left) sum += exp_nonpositive(c.logit - max);
    for (const Candidate& c : left) out[r * vocab + c.id] = static_cast<float>(exp_nonpositive(c.logit - max) / sum);
  }
  return nb::ndarray<nb::numpy, float, nb::ndim<2>>(out, {inputs.size(), vocab}, owner);
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.def("sample", &sample, nb::arg("logits"), nb::arg("rows"),
        "Sample each row of logits [R, V] (float32) as rows[r] (trivet.engine.plan.SampleRow) says.\n\n"
        "Returns R tuples (token, logprobs or None, error or None); logprobs is (token, logprob, rank, top).");
  m.def("probabilities", &probabilities, nb::arg("logits"), nb::arg("rows"),
        "The distribution [R, V] each row would be drawn from after its whole chain.");
}

}  // namespace trivet
