// Nodes of the map and their registry.
//
// Every leaf, index node and node of seals has an id, a small number that is stable for its life: a
// checkpoint stores nodes under their ids, so a leaf that moves to another page does not change its
// parents. The registry knows which nodes changed since the last checkpoint; only those are written
// by the next one.
//
//   epoch         number of checkpoints begun, + 1
//   dirty_epoch   epoch in which the node last changed; 0: the last checkpoint has it as it is
//
// Thread safety: needs the store's state lock, but for Node::owners.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/check.h"

namespace flashlun {

enum class NodeKind : uint8_t { kLeaf, kIndex, kSeal };

struct Node {
  explicit Node(NodeKind node_kind) : kind(node_kind) {}
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  std::atomic<uint32_t> owners{1};
  uint32_t id = 0;
  uint32_t dirty_epoch = 0;
  const NodeKind kind;
};

class NodeRegistry {
 public:
  // Gives a new node its id. It is dirty: no checkpoint has it.
  void Add(Node* node) {
    if (free_ids_.empty()) {
      FL_CHECK(nodes_.size() < UINT32_MAX);
      node->id = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back(node);
    } else {
      node->id = free_ids_.back();
      free_ids_.pop_back();
      nodes_[node->id] = node;
    }
    SetDirty(node);
  }

  // The node is about to be deleted; its id may be used again. The next checkpoint must know.
  void Remove(const Node* node) {
    FL_CHECK(Find(node->id) == node);
    nodes_[node->id] = nullptr;
    free_ids_.push_back(node->id);
    dirty_.push_back(node->id);
  }

  void SetDirty(Node* node) {
    if (node->dirty_epoch == epoch_) return;
    node->dirty_epoch = epoch_;
    dirty_.push_back(node->id);
  }

  // Nodes of a loaded checkpoint: all ids below `count`, then each node; what is left is free.
  void BeginRestore(size_t count) { nodes_.assign(count, nullptr); }
  void Restore(uint32_t id, Node* node) {
    node->id = id;
    nodes_[id] = node;
  }
  void EndRestore() {
    for (size_t id = nodes_.size(); id != 0; --id)
      if (nodes_[id - 1] == nullptr) free_ids_.push_back(static_cast<uint32_t>(id - 1));
  }

  // A checkpoint begins: hands over the ids that changed (some may be named twice, some may be of
  // no node any more) and starts a new epoch.
  std::vector<uint32_t> TakeDirty() {
    ++epoch_;
    return std::exchange(dirty_, {});
  }
  // The checkpoint failed: its ids are still to be written.
  void GiveBackDirty(const std::vector<uint32_t>& ids) {
    for (const uint32_t id : ids) {
      if (Node* node = Find(id))
        SetDirty(node);
      else
        dirty_.push_back(id);
    }
  }

  Node* Find(uint32_t id) const { return id < nodes_.size() ? nodes_[id] : nullptr; }
  size_t size() const { return nodes_.size(); }
  uint32_t epoch() const { return epoch_; }
  size_t dirty() const { return dirty_.size(); }

 private:
  std::vector<Node*> nodes_;
  std::vector<uint32_t> free_ids_;
  std::vector<uint32_t> dirty_;
  uint32_t epoch_ = 1;
};

}  // namespace flashlun
