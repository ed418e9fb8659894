// SVG 1.1, no script and no style sheet: what a page that shows it would refuse.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/history/changes.hpp"
#include "bench/history/history.hpp"
#include "bench/text.hpp"

namespace lamina {
namespace {

constexpr double kWidth = 960, kHeight = 420, kLeft = 84, kRight = 28, kTop = 100, kBottom = 92;
constexpr const char* kSlower = "#b3261e";
constexpr const char* kFaster = "#1a7f37";
constexpr const char* kInk = "#24292f";

// Text in XML 1.0, which has no control characters and neither U+FFFE nor U+FFFF, not even escaped.
std::string xml(std::string_view text) {
  const std::string clean = printable(text);
  std::string out;
  for (size_t i = 0; i < clean.size(); ++i) {
    const std::string_view rest = std::string_view(clean).substr(i);
    if (rest.starts_with("\xef\xbf\xbe") || rest.starts_with("\xef\xbf\xbf")) {
      out += "\xef\xbf\xbd";
      i += 2;
      continue;
    }
    switch (clean[i]) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&apos;";
        break;
      default:
        out += clean[i];
    }
  }
  return out;
}

// At most `most` code points of it, as what is longer would run over its neighbours.
std::string shortened(const std::string& text, size_t most) {
  const std::string clean = printable(text);
  if (display_width(clean) <= most) return clean;
  std::string out;
  size_t points = 0;
  for (const char c : clean) {
    const bool starts = (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    if (starts && ++points == most) break;
    out += c;
  }
  return out + "…";
}

struct Scale {
  double low, high;  // µs at the bottom and at the top
  size_t points;

  double x(double index) const {
    const double width = kWidth - kLeft - kRight;
    return kLeft + (points < 2 ? width / 2 : width * (index + 0.5) / static_cast<double>(points));
  }
  double y(double us) const {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * (us - low) / (high - low);
  }
};

Scale scale_of(const HistorySeries& series) {
  double low = series.points.front().latency_us_p50, high = low;
  for (const HistoryPoint& point : series.points) {
    low = std::min({low, point.latency_us_p50, point.latency_us_ci_low.value_or(low)});
    high = std::max({high, point.latency_us_p50, point.latency_us_ci_high.value_or(high)});
  }
  // What differs in its last bits alone is one height.
  const double margin = high - low > 1e-9 * high ? 0.08 * (high - low) : 0.05 * high;
  return {std::max(0.0, low - margin), high + margin, series.points.size()};
}

constexpr int kMostTicks = 12;

// 1, 2 or 5 times a power of ten, so that about five fit.
double step_of(const Scale& scale) {
  const double rough = (scale.high - scale.low) / 5, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

std::string text_at(double x, double y, const char* anchor, const std::string& color, const std::string& text,
                    const std::string& more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\"{}>{}</text>\n", x, y,
                     anchor, color, more, xml(text));
}

std::string axes(const HistorySeries& series, const Scale& scale) {
  std::string out;
  const double step = step_of(scale), first = std::ceil(scale.low / step);
  // Counted: next to a large number one more may be the same number.
  for (int i = 0; i < kMostTicks && (first + i) * step <= scale.high; ++i) {
    const double tick = first + i, y = scale.y(tick * step);
    out += fmt::format("<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" stroke=\"#d8dee4\"/>\n", kLeft,
                       y, kWidth - kRight, y);
    out += text_at(kLeft - 8, y + 4, "end", kInk, fmt::format("{:.10g}", tick * step));
  }
  out += text_at(kLeft - 8, kTop - 14, "end", kInk, "p50 µs");
  out += text_at(kLeft, 26, "start", kInk, shortened(series.case_name, 100),
                 " font-size=\"16\" font-weight=\"bold\"");
  out += text_at(kLeft, 46, "start", kInk,
                 shortened(fmt::format("{}: {} launches; the scale does not begin at 0", series.machine,
                                       series.points.size()),
                           130));
  return out;
}

// A commit below the axis, slanted, its end at its point.
std::string commit_label(const HistoryPoint& point, double x, const std::string& color) {
  const double y = kHeight - kBottom + 16;
  return text_at(x, y, "end", color, shortened(point.commit, 14),
                 fmt::format(" transform=\"rotate(-35 {:.1f} {:.1f})\"", x, y));
}

std::string dots(const HistorySeries& series, const Scale& scale) {
  std::string out;
  for (size_t i = 0; i < series.points.size(); ++i) {
    const HistoryPoint& point = series.points[i];
    const double x = scale.x(static_cast<double>(i));
    if (point.latency_us_ci_low && point.latency_us_ci_high) {
      out += fmt::format(
          "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#8c959f\"/>\n", x,
          scale.y(*point.latency_us_ci_low), scale.y(*point.latency_us_ci_high));
    }
    out += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"#0969da\"><title>{}</title></circle>\n", x,
        scale.y(point.latency_us_p50),
        xml(fmt::format("{} {} {} µs", point.commit, point.date, significant(point.latency_us_p50, 4))));
  }
  return out;
}

std::string stretch(const Scale& scale, const std::vector<double>& times, size_t begin, size_t end) {
  const double y = scale.y(geometric_mean(times, begin, end));
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
      "stroke-width=\"2\"/>\n",
      scale.x(static_cast<double>(begin) - 0.4), y, scale.x(static_cast<double>(end) - 0.6), y, kInk);
}

}  // namespace

std::string history_svg(const HistorySeries& series) {
  const Scale scale = scale_of(series);
  std::vector<double> times;
  for (const HistoryPoint& point : series.points) times.push_back(point.latency_us_p50);
  const std::vector<ChangePoint> changes = change_points(times);

  std::string out = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" "
      "height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<title>{2}</title>\n<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n",
      kWidth, kHeight, xml(series.case_name + " on " + series.machine));
  out += axes(series, scale);
  double labelled = scale.x(0);
  out += commit_label(series.points.front(), labelled, kInk);
  size_t begin = 0;
  for (size_t i = 0; i < changes.size(); ++i) {
    const ChangePoint& change = changes[i];
    const char* color = change.ratio > 1 ? kSlower : kFaster;
    const double x = scale.x(static_cast<double>(change.index) - 0.5);
    // Three heights, so that texts of neighbours do not meet.
    const double label_y = kTop - 30 + 12 * static_cast<double>(i % 3);
    out += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2}\" stroke=\"{3}\" "
        "stroke-dasharray=\"5 3\"/>\n",
        x, label_y + 4, kHeight - kBottom, color);
    const HistoryPoint& point = series.points[change.index];
    out += text_at(x, label_y, x > kWidth * 0.8 ? "end" : "start", color,
                   fmt::format("{:+.1f} % at {}", 100 * (change.ratio - 1), shortened(point.commit, 14)));
    const double place = scale.x(static_cast<double>(change.index));
    if (place - labelled > 16) {
      out += commit_label(point, place, color);
      labelled = place;
    }
    out += stretch(scale, times, begin, change.index);
    begin = change.index;
  }
  out += stretch(scale, times, begin, times.size());
  const double last = scale.x(static_cast<double>(times.size()) - 1);
  if (last - labelled > 16) out += commit_label(series.points.back(), last, kInk);
  return out + dots(series, scale) + "</svg>\n";
}

}  // namespace lamina
