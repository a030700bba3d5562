// What a death watch makes of what it is told.

#include <memory>
#include <string>

#include <gmock/gmock.h>

#include "platform/posix/watched_children.hpp"

namespace {

using pynisher::platform::watch_message;
using pynisher::platform::watched_child;
using pynisher::platform::watched_children;
using kind = watch_message::kind;

class WatchedChildren : public ::testing::Test {
 protected:
  void tell(kind what, pid_t pid, std::int64_t began = 0) { children_->take({what, pid, began}); }
  /// "7@100 8@200+tree"
  [[nodiscard]] std::string known() const {
    std::string all;
    for (const watched_child& child : *children_) {
      all += (all.empty() ? "" : " ") + std::to_string(child.pid) + "@" + std::to_string(child.began) +
             (child.whole_tree ? "+tree" : "");
    }
    return all;
  }
  std::unique_ptr<watched_children> children_ = std::make_unique<watched_children>();
};

TEST_F(WatchedChildren, AreKnownFromTheirStartToTheirEnd) {
  tell(kind::child, 7, 100);
  tell(kind::tree, 8, 200);
  tell(kind::child, 9, 300);
  EXPECT_EQ(known(), "7@100 8@200+tree 9@300");
  tell(kind::gone, 7);
  EXPECT_EQ(known(), "9@300 8@200+tree");
  tell(kind::gone, 7);
  tell(kind::gone, 9);
  tell(kind::gone, 8);
  EXPECT_EQ(known(), "");
}

TEST_F(WatchedChildren, AreOneHoweverOftenTheyAreToldOf) {
  tell(kind::child, 7, 100);
  tell(kind::tree, 7, 100);
  tell(kind::child, 7, 100);
  tell(kind::child, 7, 0);
  EXPECT_EQ(known(), "7@100+tree");
}

// Its end was never told: whoever has its number now is another child, with a tree of its own or without.
TEST_F(WatchedChildren, GiveWayToAnotherOfTheSameNumber) {
  tell(kind::tree, 7, 100);
  tell(kind::child, 7, 150);
  EXPECT_EQ(known(), "7@150");
}

TEST_F(WatchedChildren, AreNotMistakenForWhoeverHasTheirNumberNow) {
  const watched_child child{7, true, 100};
  EXPECT_TRUE(child.is_replaced_by(101));
  EXPECT_FALSE(child.is_replaced_by(100)) << "it is there";
  EXPECT_FALSE(child.is_replaced_by(0)) << "it is gone, and its session may be there";
  const watched_child unknown{7, true, 0};
  EXPECT_FALSE(unknown.is_replaced_by(100)) << "nothing is known of when it began";
}

TEST_F(WatchedChildren, AreNoMoreThanThereIsRoomFor) {
  constexpr auto most = static_cast<pid_t>(watched_children::most);
  for (pid_t pid = 1; pid <= most + 10; ++pid) tell(kind::child, pid, pid);
  EXPECT_EQ(children_->end() - children_->begin(), most);
  tell(kind::gone, 1);
  tell(kind::child, most + 1, 5);
  EXPECT_EQ((children_->end() - 1)->pid, most + 1);
  tell(kind::tree, most + 1, 5);
  EXPECT_EQ(children_->end() - children_->begin(), most);
  EXPECT_TRUE((children_->end() - 1)->whole_tree);
}

}  // namespace
