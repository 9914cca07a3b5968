// ThreadIo: the Io of the product on buffered files and system threads.
#pragma once

#include <memory>

#include "core/io.h"

namespace flashlun {

std::unique_ptr<Io> MakeThreadIo();

}  // namespace flashlun
