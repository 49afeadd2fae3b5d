// Functions of libtorch that the trainer needs and tch 0.24 does not bind: operators over lists of
// tensors, clearing gradients, and deterministic algorithms. Each entry is a few lines and decides
// nothing.
//
// Every entry returns null, or a message that the caller passes to diptych_free, so no exception leaves
// this file. Tensors are borrowed. A new tensor is returned through `out` and then owned by the caller.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

namespace {

template <typename Work> char *guarded(Work work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception &error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("libtorch threw something that is not a std::exception");
  }
}

std::vector<at::Tensor> list(const at::Tensor *const *tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) result.push_back(*tensors[i]);
  return result;
}

} // namespace

extern "C" {

void diptych_free(char *message) { std::free(message); }

// Runs AdamW with decoupled weight decay over lists of `count` tensors. `step` counts updates including
// this one. Does nothing if `unusable` is 1: the device decides, so the host does not wait for it.
char *diptych_fused_adamw(size_t count, const at::Tensor *const *parameters, const at::Tensor *const *gradients,
                          const at::Tensor *const *averages, const at::Tensor *const *squares, const at::Tensor *step,
                          const at::Tensor *unusable, double lr, double beta1, double beta2, double weight_decay, double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> steps(count, *step);
    at::_fused_adamw_(list(parameters, count), list(gradients, count), list(averages, count), list(squares, count), {}, steps,
                      lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{}, *unusable);
  });
}

// Computes the 2-norm of all tensors together, which stays on the device.
char *diptych_total_norm(size_t count, const at::Tensor *const *tensors, at::Tensor **out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(at::linalg_vector_norm(at::stack(at::_foreach_norm(list(tensors, count)))));
  });
}

// Multiplies every tensor by a factor on the device.
char *diptych_scale(size_t count, const at::Tensor *const *tensors, const at::Tensor *factor) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_foreach_mul_(list(tensors, count), *factor);
  });
}

// Drops gradients, so that the next backward pass stores its own instead of adding to zeros.
char *diptych_clear_gradients(size_t count, const at::Tensor *const *tensors) {
  return guarded([&] {
    for (size_t i = 0; i < count; ++i) tensors[i]->mutable_grad() = at::Tensor();
  });
}

char *diptych_deterministic(bool on) {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/false);
    // That mode also fills every new tensor with NaN to find reads of uninitialised memory, which costs
    // a pass over memory per operator.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

// Waits until a GPU has finished its work.
char *diptych_synchronise(int device) {
  return guarded([&] { c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).synchronizeDevice(device); });
}

// Gives this thread a stream of its own for its work on a GPU.
char *diptych_own_stream(int device) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl gpus(c10::DeviceType::CUDA);
    const c10::Device gpu(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    gpus.setDevice(gpu);
    gpus.exchangeStream(gpus.getStreamFromGlobalPool(gpu));
  });
}

// Waits until the work on this thread's stream has finished.
char *diptych_synchronise_own_stream(int device) {
  return guarded([&] {
    const c10::impl::VirtualGuardImpl gpus(c10::DeviceType::CUDA);
    gpus.synchronizeStream(gpus.getStream(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device))));
  });
}

// Copies a tensor into page-locked memory.
char *diptych_pinned(const at::Tensor *tensor, at::Tensor **out) {
  return guarded([&] { *out = new at::Tensor(tensor->pin_memory()); });
}

// Returns the file that holds a function of libtorch_cpu, or null if the system does not know it.
const char *diptych_libtorch_file() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void *>(&at::globalContext), &info) == 0) return nullptr;
  return info.dli_fname;
}
}
