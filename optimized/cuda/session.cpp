#include "optimized/cuda/session.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>

#include "harness/contract/error.h"
#include "harness/contract/session_checks.h"

namespace qdiff::optimized::cuda {
namespace {

[[noreturn]] void refuse(const Step& step, const std::string& what) {
  throw InputError("cuda engine, step " + std::to_string(step.index) + ": " + what);
}

SessionOptions checked(const SessionOptions& options) {
  constexpr std::int64_t kMostSlots = 1 << 24;
  if (options.capacity > kMostSlots) {
    throw InputError("cuda engine: a session of capacity " + std::to_string(options.capacity) + "; it takes at most " +
                     std::to_string(kMostSlots) + " slots");
  }
  return checked_session(options, "cuda engine");
}

// Where the rows of weights are long, the batch class is faster from two rows on (7B: 4.9 ms a step, for 5.0, 5.7
// and 6.6 of two, three and four rows here); where they are short, fewer kernels are (0.5B: 1.11 ms for 1.15 of four
// rows; H200).
bool matvec_fits(const DeviceModel& model, std::int64_t batch) {
  constexpr std::size_t kLongRow = 4096;  // bytes
  const ModelConfig& c = model.config;
  if (batch > 1 && static_cast<std::size_t>(c.hidden) * size_of(model.dtype) >= kLongRow) return false;
  const std::int64_t widest = std::max({c.hidden, c.q_width(), c.intermediate});
  return batch <= max_matvec_batch(static_cast<int>(widest), model.dtype);
}

// The most sums that one of the products which the batch class takes in parts leaves for a row.
std::size_t product_partials_of_row(const ModelConfig& c) {
  const auto sums = [](std::int64_t n, std::int64_t k) { return n * splits_of_product(k); };
  return static_cast<std::size_t>(std::max(
      {sums(c.q_width() + 2 * c.kv_width(), c.hidden), sums(c.hidden, c.q_width()), sums(c.hidden, c.intermediate)}));
}

SessionMemory make_memory(const DeviceModel& model, const SessionOptions& options) {
  const ModelConfig& c = model.config;
  SessionMemory m{};
  m.layout = {c.num_layers, options.batch, c.num_kv_heads, options.capacity, c.head_dim};
  const std::size_t cache_bytes = static_cast<std::size_t>(m.layout.num_elements()) * size_of(model.dtype);
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  QDIFF_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  if (2 * cache_bytes > free_bytes) {
    throw InputError("cuda engine: a cache of batch " + std::to_string(options.batch) + " and capacity " +
                     std::to_string(options.capacity) + " takes " + std::to_string(2 * cache_bytes >> 20) +
                     " MiB, and the GPU has " + std::to_string(free_bytes >> 20) + " MiB free");
  }
  m.keys = DeviceBuffer(cache_bytes);
  m.values = DeviceBuffer(cache_bytes);
  const auto batch = static_cast<std::size_t>(options.batch);
  const auto slots = static_cast<std::size_t>(options.capacity);
  const std::size_t token_bytes = aligned(batch * slots * sizeof(std::int32_t));
  const std::size_t row_bytes = aligned(batch * sizeof(std::int32_t));
  m.inputs = DeviceBuffer(2 * token_bytes + 2 * row_bytes);
  m.step = {reinterpret_cast<std::int32_t*>(m.inputs.bytes_at(0)),
            reinterpret_cast<std::int32_t*>(m.inputs.bytes_at(token_bytes)),
            reinterpret_cast<std::int32_t*>(m.inputs.bytes_at(2 * token_bytes)),
            reinterpret_cast<std::int32_t*>(m.inputs.bytes_at(2 * token_bytes + row_bytes))};
  m.num_splits = static_cast<int>((options.capacity + kKeyTile - 1) / kKeyTile);
  const std::size_t heads = batch * static_cast<std::size_t>(c.num_q_heads);
  const std::size_t splits = heads * static_cast<std::size_t>(m.num_splits);
  const std::size_t split_bytes = aligned(splits * sizeof(float));
  m.partials = DeviceBuffer(2 * split_bytes + splits * static_cast<std::size_t>(c.head_dim) * sizeof(float));
  m.partial_max = reinterpret_cast<float*>(m.partials.bytes_at(0));
  m.partial_sum = reinterpret_cast<float*>(m.partials.bytes_at(split_bytes));
  m.partial_out = reinterpret_cast<float*>(m.partials.bytes_at(2 * split_bytes));
  m.tickets = DeviceBuffer(heads * sizeof(unsigned));
  if (!matvec_fits(model, options.batch)) {
    m.product_partials = DeviceBuffer(batch * product_partials_of_row(c) * sizeof(float));
  }
  return m;
}

}  // namespace

CudaSession::CudaSession(EngineParts& parts, const SessionOptions& options, std::shared_ptr<const PlantedFault> fault)
    : parts_(parts),
      options_(checked(options)),
      fault_(std::move(fault)),
      stream_(make_stream()),
      memory_(make_memory(parts.model, options_)),
      staged_inputs_(memory_.inputs.size()),
      parts_arena_(parts.model.config, parts.model.dtype),
      whole_arenas_{Arena(parts.model.config, parts.model.dtype), Arena(parts.model.config, parts.model.dtype)},
      recorder_(nullptr, stream_.get(), parts.model.dtype),
      pass_(parts_, memory_, fault_.get(), stream_.get()),
      progress_(static_cast<std::size_t>(parts.model.config.num_layers)),
      matvec_fits_(matvec_fits(parts.model, options_.batch)) {
  const int byte = poison_byte(options_.poison, parts.model.dtype);
  QDIFF_CUDA_CHECK(cudaMemsetAsync(memory_.keys.data(), byte, memory_.keys.size(), stream_.get()));
  QDIFF_CUDA_CHECK(cudaMemsetAsync(memory_.values.data(), byte, memory_.values.size(), stream_.get()));
  QDIFF_CUDA_CHECK(cudaMemsetAsync(memory_.partials.data(), byte, memory_.partials.size(), stream_.get()));
  if (memory_.product_partials.size() != 0) {
    QDIFF_CUDA_CHECK(
        cudaMemsetAsync(memory_.product_partials.data(), byte, memory_.product_partials.size(), stream_.get()));
  }
  QDIFF_CUDA_CHECK(cudaMemsetAsync(memory_.tickets.data(), 0, memory_.tickets.size(), stream_.get()));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
}

// ---- Checks -------------------------------------------------------------------------------------------------------

void CudaSession::check_order(int layer, const Step& step) const {
  const std::int64_t length = progress_[static_cast<std::size_t>(layer)].length;
  if (step.past_length != length) {
    refuse(step, "past_length is " + std::to_string(step.past_length) + ", but the cache of layer " +
                     std::to_string(layer) + " holds " + std::to_string(length) + " slots; steps run in order");
  }
}

void CudaSession::check_input(const Step& step, const TensorView& input) const {
  const Shape expected{step.batch(), step.num_tokens(), parts_.model.config.hidden};
  if (input.dtype != parts_.model.dtype || input.shape != expected || input.device.kind != DeviceKind::kCpu) {
    refuse(step, "the input is " + std::string(name(input.dtype)) + " " + to_string(input.shape) + "; it must be " +
                     std::string(name(parts_.model.dtype)) + " " + to_string(expected) + " in host memory");
  }
}

void CudaSession::advance(int layer, const Step& step) {
  Progress& progress = progress_[static_cast<std::size_t>(layer)];
  progress.length = step.valid_length();
  if (step.phase == Phase::kDecode) ++progress.decode_steps;
}

StepShape CudaSession::shape_of(const Step& step, int layer) const {
  const bool decode = step.phase == Phase::kDecode;
  return {.batch = static_cast<int>(step.batch()),
          .num_tokens = static_cast<int>(step.num_tokens()),
          .valid_length = static_cast<int>(step.valid_length()),
          .decode = decode,
          .first_decode = decode && progress_[static_cast<std::size_t>(layer)].decode_steps == 0,
          .matvec = step.num_tokens() == 1 && matvec_fits_};
}

// ---- To and from the device ---------------------------------------------------------------------------------------

void CudaSession::upload(const Step& step) {
  const auto count = static_cast<std::size_t>(step.num_tokens());
  const auto* base = reinterpret_cast<const std::int32_t*>(memory_.inputs.data());
  auto* host = staged_inputs_.as<std::int32_t>();
  const auto host_of = [&](const std::int32_t* device) { return host + (device - base); };
  std::int32_t* tokens = host_of(memory_.step.tokens);
  std::int32_t* positions = host_of(memory_.step.positions);
  for (std::size_t b = 0; b < step.tokens.size(); ++b) {
    std::copy(step.tokens[b].begin(), step.tokens[b].end(), tokens + b * count);
    std::transform(step.positions[b].begin(), step.positions[b].end(), positions + b * count,
                   [](std::int64_t position) { return static_cast<std::int32_t>(position); });
    host_of(memory_.step.left_padding)[b] = static_cast<std::int32_t>(step.left_padding[b]);
  }
  *host_of(memory_.step.past_length) = static_cast<std::int32_t>(step.past_length);
  const std::size_t used = step.tokens.size() * count * sizeof(std::int32_t);
  const auto send = [&](const std::int32_t* device, std::size_t bytes) {
    QDIFF_CUDA_CHECK(cudaMemcpyAsync(const_cast<std::int32_t*>(device), host_of(device), bytes, cudaMemcpyHostToDevice,
                                     stream_.get()));
  };
  send(memory_.step.tokens, used);
  send(memory_.step.positions, used);
  send(memory_.step.left_padding, step.tokens.size() * sizeof(std::int32_t));
  send(memory_.step.past_length, sizeof(std::int32_t));
}

void CudaSession::upload_input(const TensorView& input, void* destination) {
  QDIFF_CUDA_CHECK(cudaMemcpyAsync(destination, input.data, input.bytes(), cudaMemcpyHostToDevice, stream_.get()));
}

TensorView CudaSession::download(const void* source, Shape shape, std::int64_t stride) {
  const DType dtype = parts_.model.dtype;
  const std::int64_t columns = shape.back();
  const auto rows = static_cast<std::size_t>(num_elements(shape) / columns);
  const std::size_t width = static_cast<std::size_t>(columns) * size_of(dtype);
  if (result_.size() < width * rows) result_ = PinnedBuffer(width * rows);
  QDIFF_CUDA_CHECK(cudaMemcpy2DAsync(result_.data(), width, source, static_cast<std::size_t>(stride) * size_of(dtype),
                                     width, rows, cudaMemcpyDeviceToHost, stream_.get()));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
  return {result_.data(), dtype, std::move(shape), {}, nullptr};
}

void CudaSession::begin(const Step& step, TensorSink* sink) {
  check_step(step, options_, parts_.model.config, "cuda engine");
  recorder_.begin(sink);
  upload(step);
  if (recorder_.active()) {
    const std::size_t bytes =
        static_cast<std::size_t>(memory_.layout.batch * step.valid_length() * parts_.model.config.kv_width()) *
        size_of(parts_.model.dtype);
    if (memory_.cache_view.size() < bytes) memory_.cache_view = DeviceBuffer(bytes);
  }
}

// ---- Parts of a step ----------------------------------------------------------------------------------------------

TensorView CudaSession::run_embedding(const Step& step, TensorSink* sink) {
  begin(step, sink);
  const std::int64_t hidden = parts_.model.config.hidden;
  parts_arena_.arrange(step.batch() * step.num_tokens(), 0, false, options_.poison, stream_.get());
  parts_arena_.poison(options_.poison, stream_.get());
  pass_.embedding(shape_of(step, 0), parts_arena_.input(), recorder());
  recorder_.flush();
  return download(parts_arena_.input(), {step.batch(), step.num_tokens(), hidden}, hidden);
}

TensorView CudaSession::run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) {
  if (layer < 0 || layer >= parts_.model.config.num_layers) {
    refuse(step, "the model has no layer " + std::to_string(layer));
  }
  check_order(layer, step);
  check_input(step, input);
  begin(step, sink);
  const std::int64_t hidden = parts_.model.config.hidden;
  parts_arena_.arrange(step.batch() * step.num_tokens(), 1, false, options_.poison, stream_.get());
  parts_arena_.poison(options_.poison, stream_.get());
  upload_input(input, parts_arena_.input());
  pass_.layer(layer, shape_of(step, layer), parts_arena_.input(), parts_arena_.layer(0), recorder());
  recorder_.flush();
  advance(layer, step);
  return download(parts_arena_.layer(0).output, {step.batch(), step.num_tokens(), hidden}, hidden);
}

TensorView CudaSession::run_head(const Step& step, const TensorView& input, TensorSink* sink) {
  check_input(step, input);
  begin(step, sink);
  parts_arena_.arrange(step.batch() * step.num_tokens(), 0, true, options_.poison, stream_.get());
  parts_arena_.poison(options_.poison, stream_.get());
  upload_input(input, parts_arena_.input());
  pass_.head(shape_of(step, 0), parts_arena_.input(), parts_arena_, recorder());
  recorder_.flush();
  return download(parts_arena_.logits(), {step.batch(), step.num_tokens(), parts_.model.config.vocab},
                  parts_arena_.logits_stride());
}

// ---- Whole steps --------------------------------------------------------------------------------------------------

// Nothing of a capture has run when it is called off, so it is begun again. What calls it off is anything in this
// process that waits for the whole GPU, whatever the mode of the capture: a kernel that is loaded when it is first
// used, memory that PyTorch gives back, cudaDeviceSynchronize.
Graph CudaSession::capture(const StepShape& shape, const Arena& arena, bool greedy) {
  constexpr int kMostAttempts = 1000;
  const std::unique_lock lock(capture_mutex);
  for (int attempt = 1;; ++attempt) {
    if (Graph graph = capture_once(shape, arena, greedy, attempt == kMostAttempts)) return graph;
  }
}

// Empty where it was called off and is not the last attempt.
Graph CudaSession::capture_once(const StepShape& shape, const Arena& arena, bool greedy, bool last_attempt) {
  cudaStream_t stream = stream_.get();
  QDIFF_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  std::exception_ptr failure;
  try {
    pass_.step(shape, arena, nullptr);
    if (greedy) {
      const std::size_t parts = static_cast<std::size_t>(shape.batch) * kArgmaxBlocks;
      launch_argmax({arena.logits(), arena.logits_stride(), shape.batch, static_cast<int>(parts_.model.config.vocab),
                     greedy_memory_.as<float>(), greedy_memory_.as<std::int32_t>() + parts,
                     const_cast<std::int32_t*>(memory_.step.tokens), const_cast<std::int32_t*>(memory_.step.positions),
                     const_cast<std::int32_t*>(memory_.step.past_length)},
                    {parts_.model.dtype, stream, false, true});
    }
  } catch (...) {
    failure = std::current_exception();
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  const bool called_off = ended == cudaErrorStreamCaptureInvalidated;
  if (called_off && !last_attempt) {
    cudaGetLastError();  // else the next launch would report it
    return Graph();
  }
  if (failure) {
    if (graph != nullptr) cudaGraphDestroy(graph);
    std::rethrow_exception(failure);
  }
  QDIFF_CUDA_CHECK(ended);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  QDIFF_CUDA_CHECK(status);
  return Graph(executable);
}

void CudaSession::arrange_whole(int turn) {
  const auto index = static_cast<std::size_t>(turn);
  if (whole_arranged_[index]) return;
  whole_arenas_[index].arrange(options_.batch, static_cast<int>(parts_.model.config.num_layers), true, options_.poison,
                               stream_.get());
  whole_arranged_[index] = true;
}

// The parts of a prompt are often alike, and from the second on they are launched as one graph. Most prompts come once:
// a capture takes as long as the launches that it saves.
void CudaSession::run_prompt(const StepShape& shape) {
  const Prompt prompt{shape.num_tokens, parts_arena_.data()};
  if (prompt != prompt_ || !parts_.model.all_resident()) {
    prompt_ = prompt;
    prompt_graph_ = Graph();
    return pass_.step(shape, parts_arena_, nullptr);  // which also chooses the products' algorithms
  }
  if (!prompt_graph_) prompt_graph_ = capture(shape, parts_arena_, false);
  QDIFF_CUDA_CHECK(cudaGraphLaunch(prompt_graph_.get(), stream_.get()));
}

TensorView CudaSession::run_step(const Step& step, TensorSink* sink) {
  const auto num_layers = static_cast<int>(parts_.model.config.num_layers);
  for (int layer = 0; layer < num_layers; ++layer) check_order(layer, step);
  begin(step, sink);
  const StepShape shape = shape_of(step, 0);
  const Arena* arena = &parts_arena_;
  if (shape.num_tokens == 1) {
    arrange_whole(0);
    arena = &whole_arenas_[0];
    // A planted fault may depend on the step, or write to a buffer twice, so that each tensor has to be copied behind
    // its own kernel: then without a graph. The kernels and their arguments are the same.
    if ((fault_ == nullptr || fault_->race() != Race::kNone) && may_capture(shape)) {
      if (!decode_graph_) decode_graph_ = capture(shape, *arena, false);
      QDIFF_CUDA_CHECK(cudaGraphLaunch(decode_graph_.get(), stream_.get()));
      if (recorder_.active()) pass_.record_step(shape, *arena, true, recorder_);
    } else {
      pass_.step(shape, *arena, recorder());
      products_chosen_ = true;
    }
  } else {
    parts_arena_.arrange(shape.rows(), num_layers, true, options_.poison, stream_.get());
    if (fault_ == nullptr && !recorder_.active()) {
      run_prompt(shape);
    } else {
      pass_.step(shape, *arena, recorder());
    }
  }
  recorder_.flush();
  for (int layer = 0; layer < num_layers; ++layer) advance(layer, step);
  return download(arena->logits(), {step.batch(), step.num_tokens(), parts_.model.config.vocab},
                  arena->logits_stride());
}

// ---- Many steps without a look ------------------------------------------------------------------------------------

namespace {

// Milliseconds between marks on a stream.
class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) { mark(); }
  void mark() {
    events_.push_back(make_event());
    QDIFF_CUDA_CHECK(cudaEventRecord(events_.back().get(), stream_));
  }
  std::vector<float> read() const {
    QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream_));
    std::vector<float> milliseconds(events_.size() - 1);
    for (std::size_t i = 0; i < milliseconds.size(); ++i) {
      QDIFF_CUDA_CHECK(cudaEventElapsedTime(&milliseconds[i], events_[i].get(), events_[i + 1].get()));
    }
    return milliseconds;
  }

 private:
  cudaStream_t stream_;
  std::vector<Event> events_;
};

}  // namespace

void CudaSession::prepare_greedy(const StepShape& shape, int turn, bool tapped) {
  const auto index = static_cast<std::size_t>(turn);
  arrange_whole(turn);
  if (greedy_memory_.size() == 0) {
    greedy_memory_ =
        DeviceBuffer(static_cast<std::size_t>(options_.batch) * kArgmaxBlocks * (sizeof(float) + sizeof(std::int32_t)));
  }
  if (!may_capture(shape)) {
    pass_.step(shape, whole_arenas_[index], nullptr);  // the graph repeats the step, and does the same
    products_chosen_ = true;
  }
  if (!greedy_graphs_[index]) greedy_graphs_[index] = capture(shape, whole_arenas_[index], true);
  if (!tapped || mirrors_[index].size() != 0) return;
  mirrors_[index] = PinnedBuffer(whole_arenas_[index].bytes());
  computed_[index] = make_event(cudaEventDisableTiming);
  copied_[index] = make_event(cudaEventDisableTiming);
  if (!copies_) copies_ = make_stream();
}

std::vector<float> CudaSession::decode_greedily(const Step& step, int count, const StepSinks& sinks) {
  for (int layer = 0; layer < static_cast<int>(parts_.model.config.num_layers); ++layer) check_order(layer, step);
  if (step.num_tokens() != 1 || fault_ != nullptr || !parts_.model.all_resident()) {
    refuse(step, "decode_greedily takes one token a row, no planted fault and a model that the GPU holds as a whole");
  }
  if (step.past_length + count > options_.capacity) refuse(step, "the cache is too small for that many tokens");
  begin(step, nullptr);
  const bool tapped = sinks != nullptr;
  const StepShape shape = shape_of(step, 0);
  for (int turn = 0; turn < (tapped ? kTurns : 1); ++turn) prepare_greedy(shape, turn, tapped);
  const auto hand_out = [&](int i) {
    const auto turn = static_cast<std::size_t>(i % kTurns);
    QDIFF_CUDA_CHECK(cudaEventSynchronize(copied_[turn].get()));
    recorder_.begin(sinks(i), whole_arenas_[turn].data(), mirrors_[turn].data());
    if (recorder_.active()) pass_.record_step(shape, whole_arenas_[turn], false, recorder_);
    recorder_.flush();
  };
  Stopwatch watch(stream_.get());
  for (int i = 0; i < count; ++i) {
    const auto turn = static_cast<std::size_t>(tapped ? i % kTurns : 0);
    if (tapped && i >= kTurns) hand_out(i - kTurns);  // this turn's arena and mirror are free
    QDIFF_CUDA_CHECK(cudaGraphLaunch(greedy_graphs_[turn].get(), stream_.get()));
    if (tapped) {
      QDIFF_CUDA_CHECK(cudaEventRecord(computed_[turn].get(), stream_.get()));
      QDIFF_CUDA_CHECK(cudaStreamWaitEvent(copies_.get(), computed_[turn].get()));
      QDIFF_CUDA_CHECK(cudaMemcpyAsync(mirrors_[turn].data(), whole_arenas_[turn].data(), mirrors_[turn].size(),
                                       cudaMemcpyDeviceToHost, copies_.get()));
      QDIFF_CUDA_CHECK(cudaEventRecord(copied_[turn].get(), copies_.get()));
    }
    watch.mark();
  }
  if (tapped) {
    for (int i = std::max(0, count - kTurns); i < count; ++i) hand_out(i);
  }
  for (Progress& progress : progress_) {
    progress.length += count;
    progress.decode_steps += count;
  }
  return watch.read();
}

std::vector<float> CudaSession::time_prefill(const Step& step, int count) {
  const auto num_layers = static_cast<int>(parts_.model.config.num_layers);
  for (int layer = 0; layer < num_layers; ++layer) check_order(layer, step);
  begin(step, nullptr);
  const StepShape shape = shape_of(step, 0);
  if (shape.num_tokens == 1 || fault_ != nullptr) {
    refuse(step, "time_prefill takes several tokens a row and no planted fault");
  }
  parts_arena_.arrange(shape.rows(), num_layers, true, options_.poison, stream_.get());
  Stopwatch watch(stream_.get());
  for (int i = 0; i < count; ++i) {
    run_prompt(shape);
    watch.mark();
  }
  for (int layer = 0; layer < num_layers; ++layer) advance(layer, step);
  return watch.read();
}

std::vector<std::int32_t> CudaSession::last_tokens() const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(options_.batch));
  QDIFF_CUDA_CHECK(cudaMemcpyAsync(tokens.data(), memory_.step.tokens, tokens.size() * sizeof(std::int32_t),
                                   cudaMemcpyDeviceToHost, stream_.get()));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
  return tokens;
}

}  // namespace qdiff::optimized::cuda
