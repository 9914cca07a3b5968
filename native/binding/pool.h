// Pool: an open store with its NBD connections, as the process sees it; and the registry of all of
// them.
//
// The registry is process-wide, not per JavaScript environment: the main thread opens a pool,
// workers find it by directory. It is never destroyed: process.exit() runs static destructors while
// our threads still run, and a destructor would take the store away under them. Durability does not
// depend on it: whoever wants a clean end calls close(); any other end is recovered from at the
// next open.
//
// Thread safety: everything here may be called from any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "core/io.h"
#include "core/store.h"
#include "nbd/server.h"

namespace flashlun::binding {

class Pool {
 public:
  // Opens the store. Blocks.
  static Result<std::shared_ptr<Pool>> Open(const StoreOptions& options);

  // Ends the connections, waits for the users, closes the store. Blocks. kClosed when it was closed
  // before. With `leave_memory` the store's memory is left to the end of the process, which is
  // near: whoever waits for the pool has it sooner.
  Status Close(bool leave_memory);

  // A right to use the store; Close waits for it.
  class Use {
   public:
    Use(Use&&) = default;
    ~Use();
    Store& store() const { return *pool_->store_; }
    nbd::Server& server() const { return *pool_->server_; }

   private:
    friend class Pool;
    explicit Use(std::shared_ptr<Pool> pool) : pool_(std::move(pool)) {}
    std::shared_ptr<Pool> pool_;
  };
  // kClosed once Close has begun; never blocks.
  static Result<Use> Begin(const std::shared_ptr<Pool>& pool);

 private:
  Pool() = default;

  // Constant while `users_` > 0. Order matters: the server uses the store, the store uses the io.
  std::unique_ptr<Io> io_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<nbd::Server> server_;

  // State below is protected by mutex_.
  std::mutex mutex_;
  std::condition_variable unused_;
  uint32_t users_ = 0;
  bool closing_ = false;
};

// Pools are named by handles, plain numbers that mean the same in every thread. A handle is never
// used twice.
using PoolHandle = uint32_t;

// Opens a pool and registers it under its directory. kLocked when the process has it open already.
// Blocks.
Result<PoolHandle> OpenPool(StoreOptions options);
// The handle of the pool open at dir. kNotFound.
Result<PoolHandle> FindPool(const std::string& dir);
// kClosed when the handle's pool is closed.
Result<Pool::Use> UsePool(PoolHandle handle);
// Blocks.
Status ClosePool(PoolHandle handle, bool leave_memory = false);

}  // namespace flashlun::binding
