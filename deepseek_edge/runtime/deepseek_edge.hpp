// deepseek_edge.hpp: runs compiled models from C++17. Header only, over deepseek_edge.h.
//
//   deepseek_edge::Model model("model.so", /*threads=*/2);
//   auto input = model.inputs().at(0);
//   std::copy(image.begin(), image.end(), input.data<float>());
//   model.run();
//   auto output = model.outputs().at(0);
//   use(output.data<float>(), output.size());
//
// A library is code: load one out of a bundle only after the bundle was verified, e.g. by
// "dse-run verify". Errors are exceptions of type deepseek_edge::Error; programs without
// exceptions use deepseek_edge.h.
#ifndef DEEPSEEK_EDGE_HPP
#define DEEPSEEK_EDGE_HPP

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "deepseek_edge.h"

namespace deepseek_edge {

class Error : public std::runtime_error {
 public:
  Error(dse_status status, const std::string &what) : std::runtime_error(what), status(status) {}
  const dse_status status;
};

// A tensor in the model's arena: valid as long as the model.
class Tensor {
 public:
  explicit Tensor(const dse_tensor_info &info)
      : name(info.name), shape(info.shape, info.shape + info.rank), info_(info) {}

  const std::string name;
  const std::vector<std::int64_t> shape;

  dse_dtype dtype() const { return static_cast<dse_dtype>(info_.dtype); }
  std::size_t size_bytes() const { return info_.size_bytes; }

  // Number of elements.
  std::size_t size() const {
    std::size_t elements = 1;
    for (auto dimension : shape) elements *= static_cast<std::size_t>(dimension);
    return elements;
  }

  // The first of size() elements. T is float, std::int8_t, std::uint8_t, std::int32_t,
  // std::int64_t or bool, as dtype() says; std::uint16_t for the bits of float16.
  template <typename T>
  T *data() const {
    if (code<T>() != info_.dtype)
      throw Error(DSE_ERROR_ARGUMENT, "tensor " + name + " has another type of element");
    return static_cast<T *>(info_.data);
  }

 private:
  template <typename T>
  static constexpr int code() {
    if (std::is_same_v<T, float>) return DSE_FLOAT32;
    if (std::is_same_v<T, std::int8_t>) return DSE_INT8;
    if (std::is_same_v<T, std::uint8_t>) return DSE_UINT8;
    if (std::is_same_v<T, std::int32_t>) return DSE_INT32;
    if (std::is_same_v<T, std::int64_t>) return DSE_INT64;
    if (std::is_same_v<T, bool>) return DSE_BOOL;
    if (std::is_same_v<T, std::uint16_t>) return DSE_FLOAT16;
    return 0;
  }

  dse_tensor_info info_;
};

// One opened model; one thread at a time may use it. Movable, not copyable: open it twice instead.
class Model {
 public:
  // threads: the caller's included; 0 for as many as this process may use.
  explicit Model(const std::string &library, int threads = 0) {
    dse_options options{};
    options.struct_size = sizeof options;
    options.threads = threads;
    open(library, options);
  }

  Model(const std::string &library, const dse_options &options) { open(library, options); }

  Model(Model &&other) noexcept { swap(other); }
  Model &operator=(Model &&other) noexcept {
    swap(other);
    return *this;
  }
  Model(const Model &) = delete;
  Model &operator=(const Model &) = delete;
  ~Model() { close(); }

  int entries() const { return function<decltype(dse_entries)>("dse_entries")(model_); }

  std::string entry_name(int entry = 0) const { return entry_info(entry).name; }

  std::vector<Tensor> inputs(int entry = 0) const {
    return tensors(entry, DSE_INPUT, entry_info(entry).inputs);
  }

  std::vector<Tensor> outputs(int entry = 0) const {
    return tensors(entry, DSE_OUTPUT, entry_info(entry).outputs);
  }

  void run(int entry = 0) { check(run_(model_, entry)); }

  // Runs, and returns the duration of each step in nanoseconds.
  std::vector<std::uint64_t> run_timed(int entry = 0) {
    std::vector<std::uint64_t> step_ns(static_cast<std::size_t>(entry_info(entry).steps));
    auto timed = function<decltype(dse_run_timed)>("dse_run_timed");
    check(timed(model_, entry, step_ns.data(), step_ns.size()));
    return step_ns;
  }

 private:
  // glibc returns the library it has when a name is loaded again, even if the file of that name
  // is a new one. A descriptor that stays open is a name which nothing else can have.
  void open(const std::string &library, const dse_options &options) {
    try {
      descriptor_ = ::open(library.c_str(), O_RDONLY | O_CLOEXEC);
      if (descriptor_ < 0) throw Error(DSE_ERROR_ARGUMENT, "can't open " + library);
      const std::string path = "/proc/self/fd/" + std::to_string(descriptor_);
      handle_ = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!handle_) throw Error(DSE_ERROR_ARGUMENT, library + ": " + ::dlerror());
      if (function<decltype(dse_abi_version)>("dse_abi_version")() != DSE_ABI_VERSION)
        throw Error(DSE_ERROR_ARGUMENT, library + " has another version of the C interface");
      run_ = function<decltype(dse_run)>("dse_run");
      check(function<decltype(dse_open)>("dse_open")(&options, &model_));
    } catch (...) {
      close();
      throw;
    }
  }

  void close() noexcept {
    if (model_) function<decltype(dse_close)>("dse_close")(model_);
    if (handle_) ::dlclose(handle_);
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  void swap(Model &other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    std::swap(handle_, other.handle_);
    std::swap(model_, other.model_);
    std::swap(run_, other.run_);
  }

  template <typename Function>
  Function *function(const char *name) const {
    void *address = ::dlsym(handle_, name);
    if (!address) throw Error(DSE_ERROR_ARGUMENT, std::string("not a compiled model: no ") + name);
    return reinterpret_cast<Function *>(address);
  }

  void check(dse_status status) const {
    if (status != DSE_OK)
      throw Error(status, function<decltype(dse_last_error)>("dse_last_error")(model_));
  }

  dse_entry_info entry_info(int entry) const {
    dse_entry_info info;
    check(function<decltype(dse_entry)>("dse_entry")(model_, entry, &info));
    return info;
  }

  std::vector<Tensor> tensors(int entry, dse_direction direction, int count) const {
    auto describe = function<decltype(dse_tensor)>("dse_tensor");
    std::vector<Tensor> found;
    for (int index = 0; index < count; index++) {
      dse_tensor_info info;
      check(describe(model_, entry, direction, index, &info));
      found.emplace_back(info);
    }
    return found;
  }

  int descriptor_ = -1;
  void *handle_ = nullptr;
  dse_model *model_ = nullptr;
  decltype(dse_run) *run_ = nullptr;
};

}  // namespace deepseek_edge

#endif
