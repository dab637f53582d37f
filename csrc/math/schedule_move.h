// How a schedule moves one number of a group (its lr, or its momentum) in one step. A move is plain
// data: what is costly or the same for all groups has been computed before, once.
//
// The expressions keep Python's order of evaluation in torch.optim.lr_scheduler, so that the
// results have torch's bits.
#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace fusedlr {

enum class MoveKind : int32_t {
  keep,        // value
  scale,       // value * a
  scale_from,  // from * a
  contract,    // a * (value - b) + b
  add_span,    // value + (from - b) * a / 2
  span_above,  // b + (from - b) * a / 2
  cosine,      // to + (from - to) / 2 * a
  linear,      // (to - from) * a + from
  rise,        // from + (to - from) * a * b
  fall,        // to - (to - from) * a * b
  average,     // to * b + start * (1 - b), where value = to * a + start * (1 - a)
  reduce,      // max(value * a, from), where that is smaller than value by more than b
};

// `from` and `to` are columns: numbers that every group has of its own; -1 where none is read.
struct Move {
  MoveKind kind = MoveKind::keep;
  double a = 1.0, b = 0.0;
  int32_t from = -1, to = -1;
};

FUSEDLR_HOST_DEVICE double apply(const Move& move, double value, double from, double to) {
  const double a = move.a, b = move.b;
  switch (move.kind) {
    case MoveKind::keep:
      return value;
    case MoveKind::scale:
      return value * a;
    case MoveKind::scale_from:
      return from * a;
    case MoveKind::contract:
      return a * (value - b) + b;
    case MoveKind::add_span:
      return value + (from - b) * a / 2;
    case MoveKind::span_above:
      return b + (from - b) * a / 2;
    case MoveKind::cosine:
      return to + (from - to) / 2.0 * a;
    case MoveKind::linear:
      return (to - from) * a + from;
    case MoveKind::rise:
      return from + (to - from) * a * b;
    case MoveKind::fall:
      return to - (to - from) * a * b;
    case MoveKind::average: {
      const double start = a == 1 ? to : (value - a * to) / (1 - a);
      return to * b + start * (1 - b);
    }
    case MoveKind::reduce: {
      const double scaled = value * a;
      const double reduced = from > scaled ? from : scaled;
      return value - reduced > b ? reduced : value;
    }
  }
  return value;
}

}  // namespace fusedlr
