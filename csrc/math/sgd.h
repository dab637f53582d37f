// Stochastic gradient descent, with (Nesterov) momentum in the form of torch.optim.SGD
// (Sutskever et al. 2013, with the learning rate outside of the momentum buffer).
//
//   g <- -g                               if maximize
//   g <- g + lambda theta
//   b <- g                                on the first step with momentum of a parameter
//   b <- mu b + (1 - tau) g               afterwards (tau: dampening)
//   theta <- theta - gamma (g + mu b)     nesterov
//   theta <- theta - gamma b              otherwise
//   theta <- theta - gamma g              in a step with mu = 0, which leaves b alone
//
// Difference from torch.optim: "first step" is a count per parameter, not the absence of a buffer,
// so a buffer can be created (as zeros) before the first step. A step without momentum does not
// count.
#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace fusedlr {

// One row of the group table; the order is that of kNames.
struct SgdHyper {
  double momentum, dampening, weight_decay, nesterov, maximize;
  static constexpr const char* kNames[] = {"momentum", "dampening", "weight_decay", "nesterov",
                                           "maximize"};
};

struct SgdCoeffs {
  double grad_sign;  // -1 when maximizing
  double weight_decay;
  double lr;
  double buffer_decay;  // mu; 0 on the first step
  double grad_weight;   // 1 - tau; 1 on the first step
  double lookahead;     // mu with nesterov, else 0
  double has_momentum;  // 0 if mu is 0
};

template <bool kMomentum>
struct Sgd {
  static constexpr const char* kName = kMomentum ? "sgd_momentum" : "sgd";
  static constexpr int kStates = kMomentum ? 1 : 0;  // momentum_buffer
  static constexpr bool kCountsSteps = kMomentum;
  using Hyper = SgdHyper;
  using Coeffs = SgdCoeffs;
  struct Memo {};

  static FUSEDLR_HOST_DEVICE bool counts_step(const Hyper& hyper) { return hyper.momentum != 0; }

  // `step` counts the steps with momentum, from 1.
  static FUSEDLR_HOST_DEVICE Coeffs prepare(const Hyper& hyper, double lr, int64_t step, Memo&) {
    const bool first = step == 1;
    Coeffs c;
    c.grad_sign = hyper.maximize != 0 ? -1.0 : 1.0;
    c.weight_decay = hyper.weight_decay;
    c.lr = lr;
    c.buffer_decay = first ? 0.0 : hyper.momentum;
    c.grad_weight = first ? 1.0 : 1.0 - hyper.dampening;
    c.lookahead = hyper.nesterov != 0 ? hyper.momentum : 0.0;
    c.has_momentum = hyper.momentum != 0 ? 1.0 : 0.0;
    return c;
  }

  template <class T>
  static FUSEDLR_HOST_DEVICE void update(T& param, T grad, const Coeffs& c) {
    param -= static_cast<T>(c.lr) * decayed(param, grad, c);
  }

  template <class T>
  static FUSEDLR_HOST_DEVICE void update(T& param, T grad, T& momentum_buffer, const Coeffs& c) {
    grad = decayed(param, grad, c);
    T direction = grad;
    if (static_cast<T>(c.has_momentum) != 0) {
      momentum_buffer =
          static_cast<T>(c.buffer_decay) * momentum_buffer + static_cast<T>(c.grad_weight) * grad;
      const T lookahead = static_cast<T>(c.lookahead);
      direction = lookahead != 0 ? grad + lookahead * momentum_buffer : momentum_buffer;
    }
    param -= static_cast<T>(c.lr) * direction;
  }

 private:
  template <class T>
  static FUSEDLR_HOST_DEVICE T decayed(T param, T grad, const Coeffs& c) {
    grad *= static_cast<T>(c.grad_sign);
    // A branch on a constant of the loop, not `+ 0 * param`: an infinite parameter must stay
    // infinite.
    const T weight_decay = static_cast<T>(c.weight_decay);
    if (weight_decay != 0) grad += weight_decay * param;
    return grad;
  }
};

}  // namespace fusedlr
