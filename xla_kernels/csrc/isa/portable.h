#pragma once

#include "path.h"

namespace trix {

extern const Elementwise kBaselineElementwise;

}  // namespace trix
