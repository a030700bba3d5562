// The only file that knows Boost.Interprocess.

#include <boost/interprocess/anonymous_shared_memory.hpp>
#include <boost/interprocess/mapped_region.hpp>

#include <new>

#include "platform/contract.hpp"
#include "reply_region.hpp"

namespace pynisher::detail {

struct reply_region_owner::mapping {
  boost::interprocess::mapped_region region;
};

namespace {

boost::interprocess::mapped_region map_anonymous(std::size_t size) {
  try {
    return boost::interprocess::anonymous_shared_memory(size);
  } catch (const boost::interprocess::interprocess_exception&) {
    throw std::bad_alloc();
  }
}

}  // namespace

reply_region_owner::reply_region_owner()
    : mapping_(new mapping{map_anonymous(reply_region::size)}),
      // Fresh pages are zero, and zero is where every counter and note begins.
      region_(static_cast<reply_region*>(mapping_->region.get_address())) {
  platform::keep_from_children(region_, reply_region::size);
}

reply_region_owner::~reply_region_owner() = default;

}  // namespace pynisher::detail
