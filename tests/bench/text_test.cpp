#include "bench/text.hpp"

#include <gtest/gtest.h>

namespace lamina {
namespace {

TEST(Printable, KeepsTextAndDisarmsTheRest) {
  EXPECT_EQ(printable("K×N 50 % µs – 語 🙂"), "K×N 50 % µs – 語 🙂");
  EXPECT_EQ(printable("\x1b[31mred\n\t\x7f"), "\\x1b[31mred\\x0a\\x09\\x7f");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\u{9b}31m");  // C1: an escape in one code point
  EXPECT_EQ(printable("a\xe2\x80\xae"
                      "b"),
            "a\\u{202e}b");                                                     // right-to-left override
  EXPECT_EQ(printable("\xff\xc3("), "\\xff\\xc3(");                             // not UTF-8
  EXPECT_EQ(printable("\xc0\xaf \xed\xa0\x80"), "\\xc0\\xaf \\xed\\xa0\\x80");  // overlong, surrogate
  EXPECT_EQ(printable("\xe2\x82"), "\\xe2\\x82");                               // cut short
}

TEST(DisplayWidth, CountsCodePoints) {
  EXPECT_EQ(display_width("p50 µs"), 6u);
  EXPECT_EQ(display_width("2×1"), 3u);
}

TEST(Significant, RoundsDigitsOnTheRightOnly) {
  EXPECT_EQ(significant(1234.5678, 4), "1235");
  EXPECT_EQ(significant(123456.7, 4), "123457");
  EXPECT_EQ(significant(12.3456, 4), "12.35");
  EXPECT_EQ(significant(0.0123456, 3), "0.0123");
  EXPECT_EQ(significant(9.996, 3), "10.0");
  EXPECT_EQ(significant(0.09996, 3), "0.100");
  EXPECT_EQ(significant(-2.5, 2), "-2.5");
  EXPECT_EQ(significant(0, 3), "0");
  EXPECT_EQ(significant(1e-20, 3), "0.000000000000");
}

}  // namespace
}  // namespace lamina
