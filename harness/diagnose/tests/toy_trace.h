// A trace directory of the toy engine, as another engine would have left it.
#pragma once

#include <memory>
#include <set>
#include <utility>

#include "harness/diagnose/tests/toy_rows.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/trace/trace_reader.h"
#include "harness/trace/trace_writer.h"

namespace qdiff::diagnose {

class ToyTrace {
 public:
  explicit ToyTrace(ToyEngine engine, CaseInput of = toy_case())
      : input(std::move(of)), tensors(toy_recording(engine, input)) {
    about.engine = {"other", "1.0", "cpu"};
    about.precision = engine.precision();
    about.config = trace::declare(toy_config());
  }
  // Keeps these operations alone.
  ToyTrace& keep(const std::set<Op>& ops) {
    for (const TensorKey& key : tensors.keys()) {
      if (!ops.contains(key.id.op)) tensors.erase(key);
    }
    return *this;
  }
  std::unique_ptr<trace::Trace> write() {
    trace::write_trace(folder_.path() / "trace", about, input.steps, tensors);
    return trace::read_trace(folder_.path() / "trace");
  }

  CaseInput input;
  trace::Recording tensors;
  trace::Manifest about;

 private:
  testing::TemporaryDirectory folder_;
};

}  // namespace qdiff::diagnose
