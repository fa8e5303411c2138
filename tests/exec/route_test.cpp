// SPDX-License-Identifier: BSL-1.0
// Whatever a kernel lacks, the operation goes another way and its result is the same.
#include <iowq/exec/operation.hpp>  // first and alone

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <sstream>
#include <string>

#include <doctest/doctest.h>

#include <iowq/coro/as_result.hpp>
#include <iowq/exec/executor.hpp>
#include <iowq/flow/timeout.hpp>
#include <iowq/op/connect_to.hpp>
#include <iowq/op/file.hpp>
#include <iowq/op/futex.hpp>
#include <iowq/op/message.hpp>
#include <iowq/op/metadata.hpp>
#include <iowq/op/names.hpp>
#include <iowq/op/open.hpp>
#include <iowq/op/poll.hpp>
#include <iowq/op/process.hpp>
#include <iowq/op/socket.hpp>
#include <iowq/op/time.hpp>
#include <iowq/op/vector.hpp>

#include "leak_check.hpp"
#include "waiting.hpp"
#include "ways.hpp"
#include "without.hpp"

namespace {
using namespace std::chrono_literals;
using iowq::task;
using iowq_test::without;

/// What each operation said.
class transcript {
 public:
  template <class T>
  void note(const char* what, const iowq::result<T>& said) {
    text_ << what << ' ';
    if (!said)
      text_ << said.error().value();
    else if constexpr (std::is_integral_v<T>)
      text_ << *said;
    else
      text_ << "good";
    text_ << '\n';
  }
  void note(const char* what, std::string_view text) { text_ << what << ' ' << text << '\n'; }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
};

task<> files(transcript& said, const iowq_test::scratch& in) {
  said.note("missing", co_await iowq::as_result(iowq::open(in / "missing", O_RDONLY)));
  iowq::fd file = co_await iowq::open(in / "file", O_RDWR | O_CREAT);
  std::string head(4, '\0'), rest(9, '\0');
  said.note("write", co_await iowq::as_result(iowq::write(file, "some text")));
  std::array<std::string, 2> const parts{" and", " more"};
  auto append = iowq::pwritev(file, {parts[0], parts[1]}, 9);
  said.note("pwritev", co_await iowq::as_result(std::move(append)));
  said.note("fsync", co_await iowq::as_result(iowq::fsync(file)));
  auto scatter = iowq::preadv(file, {head, rest}, 2);
  said.note("preadv", co_await iowq::as_result(std::move(scatter)));
  said.note("head", head + rest);
  said.note("pread", co_await iowq::as_result(iowq::pread(file, rest, 14)));
  said.note("end", co_await iowq::as_result(iowq::pread(file, rest, 18)));
  auto const status = co_await iowq::stat(in / "file");
  said.note("size", std::to_string(status.size()));
  said.note("rename", co_await iowq::as_result(iowq::rename(in / "file", in / "other")));
  said.note("reopen", co_await iowq::as_result(iowq::open(in / "other", O_RDONLY)));
  said.note("unlink", co_await iowq::as_result(iowq::unlink(in / "file")));
  said.note("close", co_await iowq::as_result(iowq::close(std::move(file))));
}

task<> serve(const iowq::fd& listener, transcript& said, bool& ended) {
  iowq::fd peer = co_await iowq::accept(listener);
  std::array<char, 5> text;
  said.note("recv all", co_await iowq::as_result(iowq::recv(peer, text, MSG_WAITALL)));
  said.note("sent", co_await iowq::as_result(iowq::send(peer, "back")));
  ended = true;
}

task<> sockets(transcript& said) {
  iowq::fd listener = co_await iowq::listen_on(iowq::endpoint::ip("127.0.0.1", 0));
  bool ended = false;
  transcript of_server;  // who of the two goes on first is not ours to say
  iowq::executor::current().spawn(serve(listener, of_server, ended));
  co_await iowq::yield();
  iowq::fd client = co_await iowq::socket(AF_INET, SOCK_STREAM);
  co_await iowq::connect(client, iowq::endpoint::local_of(listener.get()));
  co_await iowq::send(client, "wh");
  co_await iowq::sleep_for(100us);
  co_await iowq::send(client, "ole");
  std::array<char, 9> text;
  said.note("recv", co_await iowq::as_result(iowq::recv(client, text)));
  said.note("eof", co_await iowq::as_result(iowq::recv(client, text)));
  co_await iowq_test::until([&] { return ended; });
  said.note("server", of_server.text());
  iowq::fd nobody = co_await iowq::socket(AF_INET, SOCK_STREAM);
  auto refused = iowq::connect(nobody, iowq::endpoint::ip("127.0.0.1", 1));
  said.note("refused", co_await iowq::as_result(std::move(refused)));

  iowq::fd from = co_await iowq::socket(AF_INET, SOCK_DGRAM);
  co_await iowq::bind(from, iowq::endpoint::ip("127.0.0.1", 0));
  auto const where = iowq::endpoint::local_of(from.get());
  said.note("sendto", co_await iowq::as_result(iowq::sendto(client, "x", where, MSG_DONTWAIT)));
  iowq::fd to = co_await iowq::socket(AF_INET, SOCK_DGRAM);
  said.note("sendto", co_await iowq::as_result(iowq::sendto(to, "datagram", where)));
  auto const got = co_await iowq::recvfrom(from, text);
  said.note("recvfrom", std::string_view{text.data(), got.size});
}

task<> waits(transcript& said) {
  iowq_test::pipe_pair pipe;
  std::array<char, 4> text;
  auto never_comes = iowq::read(pipe.in, text);
  auto const late = co_await iowq::as_result(iowq::timeout(std::move(never_comes), 1ms));
  said.note("timeout", late);
  said.note("poll", co_await iowq::as_result(iowq::poll(pipe.out, POLLOUT)));
  said.note("pipe", co_await iowq::as_result(iowq::write(pipe.out, "xyz")));
  said.note("read", co_await iowq::as_result(iowq::read(pipe.in, text)));
  pipe.in.reset();
  said.note("epipe", co_await iowq::as_result(iowq::write(pipe.out, "x")));
  std::uint32_t const word = 1;
  said.note("futex", co_await iowq::as_result(iowq::futex_wait(word, 0)));
  iowq::argument_list const fails{"sh", "-c", "exit 3"};
  iowq::process const child = co_await iowq::spawn_process(fails);
  auto const end = co_await iowq::wait_for(child);
  said.note("exit", std::to_string(end.code()));
}

task<std::string> everything() {
  iowq_test::scratch dir;
  transcript said;
  co_await files(said, dir);
  co_await sockets(said);
  co_await waits(said);
  co_return said.text();
}

}  // namespace

TEST_SUITE("exec/route") {
  TEST_CASE("hazard-43: what a kernel lacks changes how an operation is done, and no result") {
    iowq_test::leak_check books;
    std::string const expected = iowq::run(everything());
    CHECK(std::count(expected.begin(), expected.end(), '\n') > 25);
    for (int opcode = 0; opcode < 64; ++opcode) {
      CAPTURE(opcode);
      iowq::detail::lacking one;
      one.opcodes.set(static_cast<std::size_t>(opcode));
      without const hidden{one};
      iowq::executor here;
      CHECK(here.run(everything()) == expected);
      for (const auto& line : here.stats().operations)
        if (opcode == IORING_OP_RECV && here.backend() == iowq::backend_kind::io_uring &&
            line.name == std::string_view{"recv"}) {
          CHECK(line.ring_ops == 0);  // it was hidden indeed
        }
    }
    iowq::detail::lacking newer;  // than 5.13
    newer.setup_flags = ~(iowq::detail::compat::setup_cqsize | iowq::detail::compat::setup_clamp);
    newer.features = ~0U << 11;
    for (std::size_t opcode = 37; opcode < 256; ++opcode) newer.opcodes.set(opcode);
    without const hidden{newer};
    CHECK(iowq::run(everything()) == expected);
    CHECK(iowq::run(everything(), {.backend = iowq::backend_kind::poll}) == expected);
  }

  TEST_CASE("of the ring: one that lacks what a loop needs is none") {
    if (!iowq_test::rings_allowed()) return;
    for (int which = 0; which < 3; ++which) {
      iowq::detail::lacking some;
      if (which == 0) some.opcodes.set(IORING_OP_POLL_ADD);
      if (which == 1) some.features = IORING_FEAT_EXT_ARG;
      if (which == 2) some.opcodes.set();
      without const hidden{some};
      iowq::executor here;
      CHECK(here.backend() == iowq::backend_kind::poll);
      CHECK(here.backend_reason().find("older than 5.13") != std::string_view::npos);
    }
  }
}
