// The mixing copy on the CPU, and libtorch's operations on lists of tensors, which tch does not bind. The only caller
// is src/native.rs, which checks sizes, kinds and devices first, those of gradients included.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "guarded.h"
#include "memory.h"

namespace {

using patchmix::guarded;

std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t index = 0; index < count; ++index) result.push_back(*tensors[index]);
  return result;
}

// The gradients in contiguous memory, as the weights are: the fused kernels read both in memory order.
std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& weights) {
  std::vector<at::Tensor> result;
  result.reserve(weights.size());
  for (const auto& weight : weights) result.push_back(patchmix::in_memory(weight.grad()));
  return result;
}

// `fixed` is the length of a piece in bytes, or 0 if it is only known at run time. A fixed length makes a copy one or
// two moves.
template <size_t fixed>
void copy_pieces(char* out, const std::vector<const char*>& image_of_group, const int64_t* group_of_piece,
                 int64_t pieces, int64_t repeats, size_t piece_bytes) {
  const size_t bytes = fixed > 0 ? fixed : piece_bytes;
  size_t offset = 0;
  for (int64_t repeat = 0; repeat < repeats; ++repeat) {
    for (int64_t piece = 0; piece < pieces; ++piece, offset += bytes) {
      std::memcpy(out + offset, image_of_group[group_of_piece[piece]] + offset, bytes);
    }
  }
}

using CopyPieces = decltype(&copy_pieces<0>);

CopyPieces copy_for(size_t piece_bytes) {
  switch (piece_bytes) {
    case 4: return copy_pieces<4>;
    case 8: return copy_pieces<8>;
    case 16: return copy_pieces<16>;
    case 32: return copy_pieces<32>;
    case 64: return copy_pieces<64>;
    default: return copy_pieces<0>;
  }
}

}  // namespace

extern "C" {

void patchmix_free_message(char* message) {
  if (message != patchmix::out_of_memory) std::free(message);
}

// A new tensor like `batch` [B, ...] whose image `i` is made of pieces: piece `p` comes from image
// `(i + shift_of_group[group_of_piece[p % pieces]]) mod B`. Shifts lie in 0 .. B - 1; an image has a multiple of
// `pieces` pieces of `piece_elements` elements.
char* patchmix_mix(at::Tensor** mixed, const at::Tensor* batch, const int64_t* group_of_piece, int64_t pieces,
                   const int64_t* shift_of_group, int64_t groups, int64_t piece_elements) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const at::Tensor source = patchmix::in_memory(*batch);
    at::Tensor result = at::empty(source.sizes(), source.options());
    const int64_t batch_size = source.size(0);
    const size_t piece_bytes = piece_elements * source.element_size();
    const int64_t repeats = source.numel() / (batch_size * pieces * piece_elements);
    const size_t image_bytes = repeats * pieces * piece_bytes;
    const auto* in = static_cast<const char*>(source.const_data_ptr());
    auto* out = static_cast<char*>(result.mutable_data_ptr());
    const CopyPieces copy = copy_for(piece_bytes);
    // Another thread pays off from about 64 KiB on.
    const int64_t grain = 1 + (1 << 16) / (1 + static_cast<int64_t>(image_bytes));
    at::parallel_for(0, batch_size, grain, [&](int64_t begin, int64_t end) {
      std::vector<const char*> image_of_group(groups);
      for (int64_t image = begin; image < end; ++image) {
        for (int64_t group = 0; group < groups; ++group) {
          image_of_group[group] = in + (image + shift_of_group[group]) % batch_size * image_bytes;
        }
        copy(out + image * image_bytes, image_of_group, group_of_piece, pieces, repeats, piece_bytes);
      }
    });
    *mixed = new at::Tensor(std::move(result));
  });
}

// One AdamW step of all weights with their gradients; changes nothing if `found_inf` holds 1.
char* patchmix_adamw(at::Tensor* const* weights, at::Tensor* const* means, at::Tensor* const* mean_squares,
                     size_t count, const at::Tensor* steps, const at::Tensor* found_inf, double learning_rate,
                     double beta_1, double beta_2, double weight_decay, double epsilon) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto weight_list = list(weights, count);
    for (const auto& lists : {weight_list, list(means, count), list(mean_squares, count)}) {
      for (const auto& tensor : lists) TORCH_CHECK(patchmix::is_plain(tensor), "a weight has no memory of its own");
    }
    const std::vector<at::Tensor> steps_of_each(count, *steps);
    at::_fused_adamw_(weight_list, gradients_of(weight_list), list(means, count), list(mean_squares, count), {},
                      steps_of_each, learning_rate, beta_1, beta_2, weight_decay, epsilon, /*amsgrad=*/false,
                      /*maximize=*/false, /*grad_scale=*/{}, *found_inf);
  });
}

// The L2 norm of the gradients of all weights together.
char* patchmix_gradient_norm(at::Tensor** norm, at::Tensor* const* weights, size_t count) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const auto norms = at::_foreach_norm(gradients_of(list(weights, count)), 2);
    *norm = new at::Tensor(at::linalg_vector_norm(at::stack(norms)));
  });
}

// Drops gradients: the next backward pass allocates new ones instead of adding to zeros.
char* patchmix_forget_gradients(at::Tensor* const* weights, size_t count) {
  return guarded([&] {
    for (size_t index = 0; index < count; ++index) weights[index]->mutable_grad() = at::Tensor();
  });
}

// `start += share * (end - start)` for every pair.
char* patchmix_lerp(at::Tensor* const* starts, at::Tensor* const* ends, size_t count, double share) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> to;
    for (const auto& end : list(ends, count)) to.push_back(patchmix::in_memory(end));
    at::_foreach_lerp_(list(starts, count), to, share);
  });
}
}
