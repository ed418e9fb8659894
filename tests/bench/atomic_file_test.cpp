#include "bench/atomic_file.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace lamina {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class AtomicFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("lamina-atomic-" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string text(const std::string& name) const {
    std::ifstream in(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  int64_t files() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator{}); }
  static mode_t mode(const std::string& path) {
    struct stat status {};
    ::stat(path.c_str(), &status);
    return status.st_mode & 07777;
  }
  std::string error(const std::string& target, std::string_view content = "x") {
    try {
      write_file_atomically(target, content);
    } catch (const std::runtime_error& caught) {
      return caught.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(AtomicFile, WritesReplacesAndLeavesNothingElse) {
  write_file_atomically(path("a"), "one");
  EXPECT_EQ(text("a"), "one");
  const std::string large(3'000'000, 'x');
  write_file_atomically(path("a"), large);
  EXPECT_EQ(text("a"), large);
  write_file_atomically(path("a"), "");
  EXPECT_EQ(text("a"), "");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFile, KeepsPermissionsOrTakesTheUsersDefault) {
  const mode_t mask = ::umask(027);
  write_file_atomically(path("new"), "x");
  ::umask(mask);
  EXPECT_EQ(mode(path("new")), 0640u);
  ::chmod(path("new").c_str(), 0604);
  write_file_atomically(path("new"), "y");
  EXPECT_EQ(mode(path("new")), 0604u);
}

TEST_F(AtomicFile, FollowsASymbolicLink) {
  write_file_atomically(path("target"), "old");
  fs::create_symlink("target", path("link"));
  write_file_atomically(path("link"), "new");
  EXPECT_EQ(text("target"), "new");
  EXPECT_TRUE(fs::is_symlink(path("link")));
}

TEST_F(AtomicFile, ReadersSeeTheOldFileOrTheNew) {
  write_file_atomically(path("a"), "old");
  const int reader = ::open(path("a").c_str(), O_RDONLY);
  ASSERT_GE(reader, 0);
  write_file_atomically(path("a"), "new and longer");
  char buffer[32] = {};
  EXPECT_EQ(::read(reader, buffer, sizeof buffer), 3);
  ::close(reader);
}

TEST_F(AtomicFile, SaysWhatIsInTheWay) {
  EXPECT_THAT(error(folder_.string()), HasSubstr("found a folder"));
  EXPECT_THAT(error("/dev/null"), HasSubstr("found a device"));
  EXPECT_THAT(error(path("none/a")),
              testing::AllOf(HasSubstr(path("none/a")), HasSubstr("create the folder")));
}

TEST_F(AtomicFile, LeavesAReadOnlyFileAlone) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everything";
  write_file_atomically(path("a"), "old");
  ::chmod(path("a").c_str(), 0444);
  EXPECT_THAT(error(path("a")), HasSubstr("make it writable"));
  EXPECT_EQ(text("a"), "old");
}

// A file-size limit fails the write half-way, as a full disk does.
TEST_F(AtomicFile, AFailedWriteLeavesTheOldFileAndNoTemporary) {
  write_file_atomically(path("a"), "old");
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = 1000;
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const std::string message = error(path("a"), std::string(5000, 'x'));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("cannot write"));
  EXPECT_EQ(text("a"), "old");
  EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace lamina
