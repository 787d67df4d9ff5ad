// A loss whose gradient was computed together with its value, as a node of libtorch's graph. The only caller is
// src/native.rs, which checks the shapes.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>

#include "guarded.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct MeanOfRows : torch::autograd::Function<MeanOfRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& row_losses,
                            const at::Tensor& slope) {
    context->save_for_backward({slope});
    return row_losses.mean();
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    at::Tensor gradient;
    {
      at::NoGradGuard no_grad;  // also while a second derivative is prepared
      const at::Tensor slope = context->get_saved_variables()[0];
      gradient = slope.mul(gradients[0].div(slope.size(0)));
    }
    if (at::GradMode::is_enabled()) {
      // The slope is a constant to libtorch, so a second derivative would be wrong. It is an error where it is asked
      // for, and `create_graph` alone is none.
      const auto refuse = std::make_shared<torch::autograd::DelayedError>(
          "the losses of patchmix have no second derivative; compute them from their formula instead", 1);
      gradient = (*refuse)({gradient.requires_grad_()})[0];
    }
    return {gradient, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

// The mean of `row_losses` [B, 1], whose gradient with respect to `query` [B, D] is `slope / B`.
char* patchmix_mean_of_rows(at::Tensor** loss, const at::Tensor* query, const at::Tensor* row_losses,
                            const at::Tensor* slope) {
  return patchmix::guarded(
      [&] { *loss = new at::Tensor(MeanOfRows::apply(*query, *row_losses, *slope)); });
}
}
