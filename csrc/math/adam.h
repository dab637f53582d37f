// Adam and AdamW (Kingma & Ba 2015, arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101)
// and their AMSGrad variant (Reddi et al. 2018).
//
//   g  <- -g                              if maximize
//   g  <- g + lambda theta                coupled weight decay (Adam)
//   th <- (1 - gamma lambda) theta        decoupled weight decay (AdamW)
//   m  <- beta1 m + (1 - beta1) g
//   v  <- beta2 v + (1 - beta2) g^2
//   theta <- theta - gamma/(1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
//   AMSGrad puts the running maximum of v in the place of v in the last line.
//
// Differences from torch.optim, each within its rounding error:
// - the bias correction of v is moved into eps and the step size, once per tensor and in double,
//   instead of dividing every element:
//   gamma sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps sqrt(1 - beta2^t));
// - beta^t is computed by squaring, in double, so that every engine gets the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "math/host_device.h"
#include "math/integer_power.h"

namespace fusedlr {

// One row of the group table; the order is that of kNames.
struct AdamHyper {
  double beta1, beta2, eps, weight_decay, maximize, decoupled_weight_decay;
  static constexpr const char* kNames[] = {"beta1",        "beta2",    "eps",
                                           "weight_decay", "maximize", "decoupled_weight_decay"};
};

struct AdamCoeffs {
  double grad_sign;             // -1 when maximizing
  double coupled_weight_decay;  // added to the gradient
  double param_decay;           // 1 - gamma lambda; 1 without decoupled weight decay
  double beta2;
  double one_minus_beta1, one_minus_beta2;
  double step_size;  // gamma sqrt(1 - beta2^t) / (1 - beta1^t)
  double eps;        // eps sqrt(1 - beta2^t)
};

// The powers of beta are the costly part of prepare, and consecutive tensors mostly share them.
struct BiasCorrection {
  double beta1 = -1, beta2 = -1;
  int64_t step = -1;
  double first = 0, second_sqrt = 0;

  FUSEDLR_HOST_DEVICE void update(double new_beta1, double new_beta2, int64_t new_step) {
    if (new_beta1 == beta1 && new_beta2 == beta2 && new_step == step) return;
    beta1 = new_beta1;
    beta2 = new_beta2;
    step = new_step;
    first = 1.0 - integer_power(beta1, step);
    second_sqrt = std::sqrt(1.0 - integer_power(beta2, step));
  }
};

template <bool kAmsgrad>
struct Adam {
  static constexpr const char* kName = kAmsgrad ? "adam_amsgrad" : "adam";
  static constexpr int kStates = kAmsgrad ? 3 : 2;  // exp_avg, exp_avg_sq, max_exp_avg_sq
  static constexpr bool kCountsSteps = true;
  using Hyper = AdamHyper;
  using Coeffs = AdamCoeffs;
  using Memo = BiasCorrection;

  static FUSEDLR_HOST_DEVICE bool counts_step(const Hyper&) { return true; }

  // `step` counts from 1.
  static FUSEDLR_HOST_DEVICE Coeffs prepare(const Hyper& hyper, double lr, int64_t step,
                                            Memo& bias_correction) {
    bias_correction.update(hyper.beta1, hyper.beta2, step);
    const bool decoupled = hyper.decoupled_weight_decay != 0;
    Coeffs c;
    c.grad_sign = hyper.maximize != 0 ? -1.0 : 1.0;
    c.coupled_weight_decay = decoupled ? 0.0 : hyper.weight_decay;
    c.param_decay = decoupled ? 1.0 - lr * hyper.weight_decay : 1.0;
    c.beta2 = hyper.beta2;
    c.one_minus_beta1 = 1.0 - hyper.beta1;
    c.one_minus_beta2 = 1.0 - hyper.beta2;
    c.step_size = lr * bias_correction.second_sqrt / bias_correction.first;
    c.eps = hyper.eps * bias_correction.second_sqrt;
    return c;
  }

  template <class T>
  static FUSEDLR_HOST_DEVICE void update(T& param, T grad, T& exp_avg, T& exp_avg_sq,
                                         const Coeffs& c) {
    param -= descent(param, grad, exp_avg, exp_avg_sq, c) /
             (std::sqrt(exp_avg_sq) + static_cast<T>(c.eps));
  }

  template <class T>
  static FUSEDLR_HOST_DEVICE void update(T& param, T grad, T& exp_avg, T& exp_avg_sq,
                                         T& max_exp_avg_sq, const Coeffs& c) {
    const T numerator = descent(param, grad, exp_avg, exp_avg_sq, c);
    // A NaN on either side must win, as it does in torch.maximum.
    const bool is_larger = exp_avg_sq > max_exp_avg_sq || exp_avg_sq != exp_avg_sq;
    max_exp_avg_sq = is_larger ? exp_avg_sq : max_exp_avg_sq;
    param -= numerator / (std::sqrt(max_exp_avg_sq) + static_cast<T>(c.eps));
  }

 private:
  // Decays the parameter, moves both averages, and returns step_size * exp_avg.
  template <class T>
  static FUSEDLR_HOST_DEVICE T descent(T& param, T grad, T& exp_avg, T& exp_avg_sq,
                                       const Coeffs& c) {
    grad *= static_cast<T>(c.grad_sign);
    // A branch on a constant of the loop, not `+ 0 * param`: an infinite parameter must stay
    // infinite.
    const T weight_decay = static_cast<T>(c.coupled_weight_decay);
    if (weight_decay != 0) grad += weight_decay * param;
    param *= static_cast<T>(c.param_decay);
    // Interpolating from the nearer end keeps beta1 = 0 exact, as torch.lerp does.
    const T weight = static_cast<T>(c.one_minus_beta1);
    exp_avg = weight < static_cast<T>(0.5)
                  ? exp_avg + weight * (grad - exp_avg)
                  : grad - static_cast<T>(1.0 - c.one_minus_beta1) * (grad - exp_avg);
    exp_avg_sq =
        static_cast<T>(c.beta2) * exp_avg_sq + static_cast<T>(c.one_minus_beta2) * grad * grad;
    return static_cast<T>(c.step_size) * exp_avg;
  }
};

}  // namespace fusedlr
