#include "binding/pool.h"

#include <exception>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "core/thread_io.h"

namespace flashlun::binding {
namespace {

struct Entry {
  std::string dir;
  std::shared_ptr<Pool> pool;  // empty while it opens
};

struct Registry {
  std::mutex mutex;
  std::map<PoolHandle, Entry> entries;  // protected by mutex
  PoolHandle next_handle = 1;           // protected by mutex
};

Registry& GetRegistry() {
  static Registry* const registry = new Registry;  // leaked on purpose, see pool.h
  return *registry;
}

// Two spellings of one directory are one pool.
std::string Canonical(const std::string& dir) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::weakly_canonical(dir, error);
  return error ? dir : path.string();
}

Status Closed() { return Status(Code::kClosed, "the pool is closed"); }

}  // namespace

Result<std::shared_ptr<Pool>> Pool::Open(const StoreOptions& options) {
  std::shared_ptr<Pool> pool(new Pool);
  pool->io_ = MakeThreadIo();
  Result<std::unique_ptr<Store>> store = Store::Open(*pool->io_, options);
  if (!store.ok()) return store.TakeStatus();
  pool->store_ = std::move(store.value());
  try {
    pool->server_ = std::make_unique<nbd::Server>(*pool->store_);
  } catch (const std::exception& error) {
    return Status(Code::kLimit, std::string("cannot start the NBD threads: ") + error.what());
  }
  return pool;
}

Status Pool::Close(bool leave_memory) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closing_) return Closed();
    closing_ = true;
  }
  server_->StopAll();
  std::unique_lock<std::mutex> lock(mutex_);
  unused_.wait(lock, [this] { return users_ == 0; });
  // A user may have started a connection between the two lines above; the destructor stops it too.
  server_.reset();
  Status status = store_->Close();
  if (leave_memory) {
    (void)store_.release();
  } else {
    store_.reset();
  }
  return status;
}

Result<Pool::Use> Pool::Begin(const std::shared_ptr<Pool>& pool) {
  std::lock_guard<std::mutex> lock(pool->mutex_);
  if (pool->closing_) return Closed();
  pool->users_++;
  return Use(pool);
}

Pool::Use::~Use() {
  if (!pool_) return;  // moved from
  std::lock_guard<std::mutex> lock(pool_->mutex_);
  if (--pool_->users_ == 0) pool_->unused_.notify_all();
}

Result<PoolHandle> OpenPool(StoreOptions options) {
  options.dir = Canonical(options.dir);
  Registry& registry = GetRegistry();
  PoolHandle handle;
  {
    std::lock_guard<std::mutex> lock(registry.mutex);
    for (const auto& [other, entry] : registry.entries) {
      if (entry.dir == options.dir) {
        return Status(Code::kLocked, options.dir + " is already open in this process");
      }
    }
    handle = registry.next_handle++;
    registry.entries[handle] = Entry{options.dir, nullptr};
  }
  Result<std::shared_ptr<Pool>> opened = Pool::Open(options);
  std::lock_guard<std::mutex> lock(registry.mutex);
  if (!opened.ok()) {
    registry.entries.erase(handle);
    return opened.TakeStatus();
  }
  registry.entries[handle].pool = std::move(opened.value());
  return handle;
}

Result<PoolHandle> FindPool(const std::string& dir) {
  const std::string canonical = Canonical(dir);
  Registry& registry = GetRegistry();
  std::lock_guard<std::mutex> lock(registry.mutex);
  for (const auto& [handle, entry] : registry.entries) {
    if (entry.dir == canonical && entry.pool) return handle;
  }
  return Status(Code::kNotFound, "no pool is open at " + canonical + " in this process");
}

Result<Pool::Use> UsePool(PoolHandle handle) {
  std::shared_ptr<Pool> pool;
  {
    Registry& registry = GetRegistry();
    std::lock_guard<std::mutex> lock(registry.mutex);
    const auto found = registry.entries.find(handle);
    if (found == registry.entries.end() || !found->second.pool) return Closed();
    pool = found->second.pool;
  }
  return Pool::Begin(pool);
}

Status ClosePool(PoolHandle handle, bool leave_memory) {
  Registry& registry = GetRegistry();
  std::shared_ptr<Pool> pool;
  {
    std::lock_guard<std::mutex> lock(registry.mutex);
    const auto found = registry.entries.find(handle);
    if (found == registry.entries.end() || !found->second.pool) return Closed();
    pool = found->second.pool;
  }
  Status status = pool->Close(leave_memory);
  if (status.code() == Code::kClosed)
    return status;  // another thread closes it and removes the entry
  std::lock_guard<std::mutex> lock(registry.mutex);
  registry.entries.erase(handle);
  return status;
}

}  // namespace flashlun::binding
