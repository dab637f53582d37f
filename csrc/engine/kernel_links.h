// Numbers of the group table that are tied to tensors of the user's: what bindings/live_tensors.h
// does on the host, done by kernels where the tensors are on the device.
#pragma once

#include "engine/kernel_tables.h"
#include "math/host_device.h"
#include "math/storage.h"

namespace fusedlr {

// The number in a tensor of one element.
FUSEDLR_HOST_DEVICE double read_number(const void* data, Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
      return *static_cast<const double*>(data);
    case Dtype::float32:
      return load_as<double>(*static_cast<const float*>(data));
    case Dtype::bfloat16:
      return load_as<double>(*static_cast<const BFloat16*>(data));
    case Dtype::float16:
      return load_as<double>(*static_cast<const Float16*>(data));
  }
  return 0;
}

FUSEDLR_HOST_DEVICE void write_number_(void* data, Dtype dtype, double value) {
  switch (dtype) {
    case Dtype::float64:
      return store_as(*static_cast<double*>(data), value);
    case Dtype::float32:
      return store_as(*static_cast<float*>(data), value);
    case Dtype::bfloat16:
      return store_as(*static_cast<BFloat16*>(data), value);
    case Dtype::float16:
      return store_as(*static_cast<Float16*>(data), value);
  }
}

// Carries what was written since the last call to the other side; a tensor wins over the table.
FUSEDLR_HOST_DEVICE void sync_link_(LiveLink& link, const StepTables& tables) {
  double& slot = tables.slot(link.place);
  double value = read_number(link.tensor, link.tensor_dtype);
  if (value != link.tensor_value) {
    link.source = nullptr;
  } else if (slot != link.slot_value) {
    write_number_(link.tensor, link.tensor_dtype, slot);
    link.tensor_value = read_number(link.tensor, link.tensor_dtype);
    link.slot_value = slot;
    link.source = nullptr;
    return;
  } else if (link.source != nullptr) {
    const double source = read_number(link.source, link.source_dtype);
    if (source == link.source_value) return;
    link.source_value = source;
    write_number_(link.tensor, link.tensor_dtype, source);
    value = read_number(link.tensor, link.tensor_dtype);
  }
  if (value != link.tensor_value) slot = link.slot_value = link.tensor_value = value;
}

FUSEDLR_HOST_DEVICE void sync_links_(const StepTables& tables, int thread, int num_threads) {
  for (int64_t i = thread; i < tables.num_links; i += num_threads) {
    sync_link_(tables.links[i], tables);
  }
}

}  // namespace fusedlr
