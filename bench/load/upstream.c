/* A fast OpenAI-like inference server for load measurements: one thread, epoll, no model.
 *
 *   upstream PORT
 *
 * The request body says what is wanted, so one process serves every scenario:
 *   "stream":true           an SSE stream; otherwise one JSON completion
 *   "max_tokens":N          N content deltas (default 100)
 *   interval_us=N           anywhere in the body: N microseconds between deltas; absent: as fast as they are taken
 *   "include_usage":true    a usage event before [DONE]
 *   "continuous_usage_stats":true   usage in every event, as vLLM does
 *   "x_usage":"final"               ... but not even then, as most engines do
 *
 * Each delta's content is '@' and 20 digits: the CLOCK_MONOTONIC nanoseconds at which it was made. Whoever reads it
 * on the same machine knows how long it was on its way.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    INPUT_BYTES = 1 << 16,  /* longest request */
    OUTPUT_BYTES = 1 << 16, /* written at once at most */
    EVENT_BYTES = 1024,     /* longest event, with its chunk framing */
    EVENTS = 512,           /* looked at per epoll_wait */
    SLOTS = 4096,           /* of the timer wheel, a millisecond each: the longest interval */
    DELTAS = 100,
    PROMPT_TOKENS = 17,
};

typedef struct Connection {
    int fd;
    int streaming;     /* an answer is under way */
    int with_usage;    /* ... with a usage event at its end */
    int with_running;  /* ... with usage in every event */
    int deltas, sent;  /* ... of so many deltas, so many are made */
    int input, output, written;
    int slot; /* of the wheel in which it waits; -1: it does not */
    uint64_t interval_us, due_us;
    struct Connection *next; /* in its slot of the wheel */
    char in[INPUT_BYTES + 1], out[OUTPUT_BYTES];
} Connection;

static Connection *wheel[SLOTS];
static uint64_t wheel_ms; /* slots up to this millisecond have been served */
static long waiting;      /* connections in the wheel */
static int poll_fd;

static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";
static const char HEAD[] = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1749114814,"
                           "\"model\":\"bench\",\"choices\":[";
static const char DELTA[] = "{\"index\":0,\"delta\":{\"content\":\"@";
static const char DELTA_END[] = "\"},\"logprobs\":null,\"finish_reason\":null}]";
static const char STOP[] = "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]";
static const char ANSWER[] =
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1749114814,\"model\":\"bench\",\"choices\":"
    "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Plants turn light, water and carbon dioxide into "
    "sugar and oxygen.\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":17,\"completion_tokens\":42,"
    "\"total_tokens\":59}}";

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put(Connection *c, const char *bytes, size_t count) {
    memcpy(c->out + c->output, bytes, count);
    c->output += (int)count;
}
#define PUT(c, literal) put(c, literal, sizeof(literal) - 1)

/* An event is written behind a chunk size of fixed width, which is filled in when its length is known. */
static int begin_event(Connection *c) {
    int start = c->output;
    PUT(c, "0000\r\n");
    return start;
}

static void end_event(Connection *c, int start) {
    static const char hex[] = "0123456789abcdef";
    int count = c->output - start - 6;
    for (int digit = 3; digit >= 0; digit--, count >>= 4)
        c->out[start + digit] = hex[count & 15];
    PUT(c, "\r\n");
}

static void put_usage(Connection *c, int tokens) {
    c->output += sprintf(c->out + c->output,
                         ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d}", PROMPT_TOKENS,
                         PROMPT_TOKENS + tokens, tokens);
}

static void put_delta(Connection *c) {
    int start = begin_event(c);
    PUT(c, HEAD);
    PUT(c, DELTA);
    uint64_t stamp = now_ns();
    for (int digit = 19; digit >= 0; digit--, stamp /= 10)
        c->out[c->output + digit] = (char)('0' + stamp % 10);
    c->output += 20;
    PUT(c, DELTA_END);
    c->sent++;
    if (c->with_running)
        put_usage(c, c->sent);
    PUT(c, "}\n\n");
    end_event(c, start);
}

static void put_end(Connection *c) {
    int start = begin_event(c);
    PUT(c, HEAD);
    PUT(c, STOP);
    PUT(c, "}\n\n");
    end_event(c, start);
    if (c->with_usage) {
        start = begin_event(c);
        PUT(c, HEAD);
        PUT(c, "]");
        put_usage(c, c->sent);
        PUT(c, "}\n\n");
        end_event(c, start);
    }
    PUT(c, "000e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    c->streaming = 0;
}

static void drop(Connection *c) {
    if (c->slot >= 0) { /* unlink: rare, so a walk through the slot will do */
        Connection **link = &wheel[c->slot];
        while (*link != c)
            link = &(*link)->next;
        *link = c->next;
        waiting--;
    }
    close(c->fd);
    free(c);
}

static void wait_for_turn(Connection *c) {
    if (c->due_us / 1000 <= wheel_ms) /* late: as soon as possible */
        c->due_us = (wheel_ms + 1) * 1000;
    c->slot = (int)(c->due_us / 1000 % SLOTS);
    c->next = wheel[c->slot];
    wheel[c->slot] = c;
    waiting++;
}

/* Write what is ready: 1 all of it, 0 the socket is full (epoll will tell), -1 the peer is gone. */
static int flush(Connection *c) {
    while (c->written < c->output) {
        ssize_t count = send(c->fd, c->out + c->written, (size_t)(c->output - c->written), MSG_NOSIGNAL);
        if (count < 0)
            return errno == EAGAIN ? 0 : -1;
        c->written += (int)count;
    }
    c->written = c->output = 0;
    return 1;
}

static int has_room(const Connection *c) { return c->output < OUTPUT_BYTES - 4 * EVENT_BYTES; }

static uint64_t number_after(const char *body, const char *name, uint64_t otherwise) {
    const char *found = strstr(body, name);
    return found ? strtoull(found + strlen(name), NULL, 10) : otherwise;
}

static int is_true(const char *body, const char *name) {
    const char *found = strstr(body, name);
    if (!found)
        return 0;
    found += strlen(name);
    return !strncmp(found + strspn(found, " :"), "true", 4);
}

/* Take one whole request from the input and begin its answer; 0: there is none yet. */
static int next_request(Connection *c) {
    c->in[c->input] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return 0;
    int head = (int)(end - c->in) + 4, body = 0;
    *end = 0;
    char *length = strcasestr(c->in, "\ncontent-length:");
    int chunked = strcasestr(c->in, "\ntransfer-encoding: chunked") != NULL;
    if (length)
        body = atoi(length + sizeof("\ncontent-length:") - 1);
    *end = '\r';
    if (chunked) { /* the end of the last chunk is all that we need to find */
        char *last = strstr(c->in + head, "0\r\n\r\n");
        if (!last)
            return 0;
        body = (int)(last - c->in) + 5 - head;
    }
    if (c->input < head + body)
        return 0;
    char *text = c->in + head, kept = text[body];
    text[body] = 0;
    c->streaming = is_true(text, "\"stream\"");
    c->with_usage = is_true(text, "\"include_usage\"");
    c->with_running = is_true(text, "\"continuous_usage_stats\"") && !strstr(text, "\"x_usage\":\"final\"");
    c->deltas = (int)number_after(text, "\"max_tokens\":", DELTAS);
    c->interval_us = number_after(text, "interval_us=", 0);
    c->sent = 0;
    c->due_us = now_ns() / 1000;
    text[body] = kept;
    c->input -= head + body;
    memmove(c->in, text + body, (size_t)c->input);
    if (c->streaming)
        PUT(c, STREAM_HEAD);
    else
        c->output += sprintf(c->out + c->output,
                             "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                             sizeof(ANSWER) - 1, ANSWER);
    return 1;
}

/* Do for a connection whatever can be done now; -1: the peer is gone. */
static int advance(Connection *c) {
    for (;;) {
        while (c->streaming && has_room(c) && (!c->interval_us || c->due_us <= now_ns() / 1000)) {
            if (c->sent < c->deltas)
                put_delta(c);
            else
                put_end(c);
            c->due_us += c->interval_us;
        }
        int flushed = flush(c);
        if (flushed < 0)
            return -1;
        if (c->streaming && c->interval_us && c->slot < 0)
            wait_for_turn(c);
        if (flushed == 0 || (c->streaming && c->interval_us))
            return 0;
        if (!c->streaming && !next_request(c))
            return 0;
    }
}

static int receive(Connection *c) {
    for (;;) {
        ssize_t count = recv(c->fd, c->in + c->input, (size_t)(INPUT_BYTES - c->input), 0);
        if (count < 0 && errno == EAGAIN)
            return 0;
        if (count <= 0)
            return -1; /* closed, or a request that is longer than our buffer */
        c->input += (int)count;
    }
}

static void serve_wheel(void) {
    uint64_t now_ms = now_ns() / 1000000;
    while (wheel_ms < now_ms) {
        Connection *c = wheel[++wheel_ms % SLOTS];
        wheel[wheel_ms % SLOTS] = NULL;
        while (c) {
            Connection *next = c->next;
            c->slot = -1;
            waiting--;
            if (advance(c) < 0)
                drop(c);
            c = next;
        }
    }
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        Connection *c = malloc(sizeof *c);
        memset(c, 0, offsetof(Connection, in)); /* not the buffers: they are large */
        c->fd = fd;
        c->slot = -1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("upstream");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event);
    return listener;
}

int main(int count, char **words) {
    if (count != 2) {
        fprintf(stderr, "usage: upstream PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(0);
    int listener = listen_on(atoi(words[1]));
    wheel_ms = now_ns() / 1000000;
    struct epoll_event events[EVENTS];
    for (;;) {
        int ready = epoll_wait(poll_fd, events, EVENTS, waiting ? 1 : -1);
        if (!waiting)
            wheel_ms = now_ns() / 1000000; /* nobody waits: no slot needs serving */
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if (receive(c) < 0 || advance(c) < 0)
                drop(c);
        }
        serve_wheel();
    }
}
