// Attention as steps of a program.
#pragma once

#include <memory>
#include <vector>

#include "attention/attention.h"
#include "attention/schedule.h"
#include "program/step.h"

namespace trivet {

// Writes the tokens' K and V to the cache of a layer.
std::unique_ptr<Step> store_step(const KvCache& cache, int layer, const Buffer& k, const Buffer& v);

class AttendStep final : public Step {
 public:
  // `sinks` is empty for none.
  AttendStep(AttentionSchedule& schedule, const KvCache& cache, int layer, const Buffer& q, Buffer& y,
             std::vector<float> sinks);

  void prepare(const Batch&, int members) override { shares_.reset(members); }
  void run(const Batch& batch, Worker worker) override;

 private:
  AttentionSchedule& schedule_;
  const KvCache& cache_;
  int layer_;
  const Buffer& q_;
  Buffer& y_;
  std::vector<float> sinks_;
  Shares shares_;
};

}  // namespace trivet
