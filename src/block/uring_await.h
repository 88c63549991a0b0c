#pragma once
// co_await UringAwait(...): one io_uring request in the caller's frame; the value is the kernel's result.
#include <coroutine>

#include "block/reactor.h"

namespace zpair::block {

template <class Prepare>
class UringAwait : private Reactor::Completion {
 public:
  explicit UringAwait(Prepare prepare) : prepare_(prepare) {}
  UringAwait(const UringAwait&) = delete;
  UringAwait& operator=(const UringAwait&) = delete;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    on_complete = [](Completion& self, int result) {
      auto& await = static_cast<UringAwait&>(self);
      await.result_ = result;
      make_ready(await.waiter_);
    };
    io_uring_sqe& entry = Reactor::current().next_entry(*this);
    prepare_(&entry);
    io_uring_sqe_set_data(&entry, static_cast<Completion*>(this));
  }
  int await_resume() const noexcept { return result_; }
  Reactor::Completion& completion() { return *this; }  // what io_uring_prep_cancel names

 private:
  Prepare prepare_;
  std::coroutine_handle<> waiter_;
  int result_ = 0;
};

}  // namespace zpair::block
