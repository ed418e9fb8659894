// A transport that does some calls itself and hands the others to the one beneath.
#pragma once

#include <memory>
#include <utility>

#include "distributed/transport.hpp"

namespace lamina {

// Forwards every call but all_reduce_coded, which a plain call of the derived class must equal; that class
// overrides what it does itself.
class ForwardingTransport : public Transport {
 public:
  std::string name() const override { return inner_.name(); }
  int rank() const final { return inner_.rank(); }
  int size() const final { return inner_.size(); }
  std::string refusal(CollectiveKind kind, DType dtype, int64_t count) const override {
    return inner_.refusal(kind, dtype, count);
  }
  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                  Stream& stream) override {
    inner_.all_reduce(in, out, count, dtype, op, stream);
  }
  void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                      Stream& stream) override {
    inner_.reduce_scatter(in, out, count, dtype, op, stream);
  }
  void all_gather(const void* in, void* out, int64_t bytes, Stream& stream) override {
    inner_.all_gather(in, out, bytes, stream);
  }
  void broadcast(const void* in, void* out, int64_t bytes, int root, Stream& stream) override {
    inner_.broadcast(in, out, bytes, root, stream);
  }
  void all_to_all(const void* in, void* out, int64_t bytes, Stream& stream) override {
    inner_.all_to_all(in, out, bytes, stream);
  }
  void send_recv(const void* in, void* out, int64_t bytes, Stream& stream) override {
    inner_.send_recv(in, out, bytes, stream);
  }
  bool capturable() const override { return inner_.capturable(); }
  int64_t trials() const override { return inner_.trials(); }
  void poll() override { inner_.poll(); }
  void release() override { inner_.release(); }

 protected:
  explicit ForwardingTransport(Transport& inner) : inner_(inner) {}  // which must outlive it
  explicit ForwardingTransport(std::unique_ptr<Transport> inner)
      : owned_(std::move(inner)), inner_(*owned_) {}
  Transport& inner() const { return inner_; }

 private:
  std::unique_ptr<Transport> owned_;
  Transport& inner_;
};

}  // namespace lamina
