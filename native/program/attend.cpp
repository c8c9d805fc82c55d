#include "program/attend.h"

#include <algorithm>

namespace trivet {

std::unique_ptr<Step> store_step(const KvCache& cache, int layer, const Buffer& k, const Buffer& v) {
  return std::make_unique<RowStep>(
      "attention.store", Rows::tokens,
      std::vector{reads(&k, Division::tokens), reads(&v, Division::tokens),
                  writes(&cache.layers()[layer], Division::tokens)},
      [&cache, &k, &v, layer](const Batch& batch, std::int64_t begin, std::int64_t end) {
        const AttentionKernels& kernels = attention_kernels(cache.types(), Numerics::exact);
        const std::int64_t tiles_per_block = cache.block_size() / CacheLayer::kTile;
        const std::int32_t* ends = batch.query_starts + 1;
        std::int64_t sequence = std::upper_bound(ends, ends + batch.sequences, begin) - ends;
        for (std::int64_t i = begin; i < end; ++i) {
          while (i >= ends[sequence]) ++sequence;
          const std::int32_t position = batch.positions[i], in_block = position % cache.block_size();
          const std::int32_t block =
              batch.block_tables[sequence * batch.table_width + position / cache.block_size()];
          kernels.store(cache.layers()[layer], block * tiles_per_block + in_block / CacheLayer::kTile,
                        in_block % CacheLayer::kTile, k.row(i), v.row(i));
        }
      });
}

AttendStep::AttendStep(AttentionSchedule& schedule, const KvCache& cache, int layer, const Buffer& q,
                       Buffer& y, std::vector<float> sinks)
    : Step("attention", {reads(&q, Division::anywhere), reads(&cache.layers()[layer], Division::anywhere),
                         writes(&y, Division::anywhere), writes(&schedule, Division::anywhere)}),
      schedule_(schedule),
      cache_(cache),
      layer_(layer),
      q_(q),
      y_(y),
      sinks_(std::move(sinks)) {}

void AttendStep::run(const Batch&, Worker worker) {
  const AttentionCall call = {schedule_.shape(),   cache_.layers()[layer_],
                              cache_.block_size(), q_.row(0),
                              q_.stride(),         sinks_.empty() ? nullptr : sinks_.data(),
                              y_.row(0),           y_.stride()};
  const std::int64_t units = schedule_.units();
  const auto next = [&] {
    return shares_.next(units, worker.member, [&](int member) { return schedule_.share(member); });
  };
  for (std::int64_t unit = next(); unit < units; unit = next()) {
    schedule_.execute(call, unit, worker.member);
  }
}

}  // namespace trivet
