// Numbers as text, as printf writes them in the "C" locale.
#pragma once

#include <string>

namespace qdiff {

// "%.*g": at most so many significant digits, from 1 to 17, without zeros at the end.
std::string digits(double value, int significant);

// As few digits as read back the same.
std::string shortest(double value);

// The number that digits() writes.
double to_digits(double value, int significant);

// "%.*f": so many digits behind the point, at most 17.
std::string decimals(double value, int behind_point);

}  // namespace qdiff
