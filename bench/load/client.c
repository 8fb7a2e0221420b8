/* A load client for OpenAI-like servers: one thread, epoll, keep-alive, one call at a time on each connection.
 *
 *   client HOST PORT TOKEN CONNECTIONS SECONDS WARMUP_SECONDS DELTAS INTERVAL_US [USAGE]
 *
 * DELTAS 0 makes plain calls; more makes streams of so many deltas, INTERVAL_US apart (0: a burst), which upstream.c
 * understands. USAGE "final" asks upstream.c for usage at the end only, whatever a proxy asks for. What happens in the first WARMUP_SECONDS is not counted. Prints one JSON line:
 *   calls_per_s, chunks_per_s, calls, chunks   answers that were whole, and deltas in them or in those under way
 *   not_200, errors                            other statuses; broken, short or malformed answers (never both)
 *   call_ms, chunk_ms, first_ms                from sending to the last byte; from the upstream's making a delta to
 *                                              our reading it; from sending to the first delta: p50, p95, p99, max
 * Whole means: a 200 with all its bytes; for a stream also all its deltas, [DONE] and the chunk terminator.
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
    INPUT_BYTES = 1 << 17,
    HEAD_BYTES = 1 << 14, /* longest response head */
    EVENTS = 256,
    OPEN_EVERY_US = 100, /* so that connections neither storm a listen queue nor march in step */
    STAMP_DIGITS = 20,
    TAIL_BYTES = 8,
};

/* A histogram of microseconds: 64 cells for each power of two, so a percentile is exact to 1.6 %. */
enum { CELLS = 64, POWERS = 40 };
typedef struct {
    uint64_t count, max, cells[POWERS][CELLS];
} Histogram;

static void record(Histogram *h, uint64_t us) {
    int power = us < CELLS ? 0 : 58 - __builtin_clzll(us);
    h->cells[power][(us >> power) % CELLS]++;
    h->count++;
    if (us > h->max)
        h->max = us;
}

static double percentile_ms(const Histogram *h, double share) {
    uint64_t seen = 0, wanted = (uint64_t)(share * (double)h->count);
    for (int power = 0; power < POWERS; power++)
        for (int cell = 0; cell < CELLS; cell++)
            if (h->cells[power][cell] && (seen += h->cells[power][cell]) > wanted)
                return (double)((uint64_t)cell << power) / 1000.0;
    return (double)h->max / 1000.0;
}

/* Where in an answer a connection is. */
typedef enum { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER } State;

typedef struct {
    int fd, deltas, stamp_left, has_first, is_200;
    State state;
    long left;         /* bytes of the body or the chunk */
    uint64_t sent_ns;  /* when the call was sent */
    uint64_t stamp;    /* digits read so far */
    char tail[TAIL_BYTES];
    int head;
    char text[HEAD_BYTES + 1]; /* of the head, or of a chunk size */
} Connection;

static Histogram call_us, chunk_us, first_us;
static long calls, chunks, not_200, errors;
static int poll_fd, deltas_wanted, counting;
static struct sockaddr_in server;
static char request[4096];
static size_t request_bytes;
static char input[INPUT_BYTES];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void begin_call(Connection *c) {
    c->state = HEAD;
    c->head = c->deltas = c->stamp_left = c->has_first = 0;
    c->sent_ns = now_ns();
    if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes && counting)
        errors++;
}

static void open_connection(Connection *c) {
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server)) {
        perror("client: connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event);
    begin_call(c);
}

static void fail(Connection *c) {
    if (counting)
        errors++;
    close(c->fd);
    open_connection(c);
}

static void finish(Connection *c) {
    int is_done = !deltas_wanted || (c->deltas == deltas_wanted && !memcmp(c->tail, "[DONE]\n\n", TAIL_BYTES));
    if (counting) {
        if (!c->is_200)
            not_200++;
        else if (!is_done)
            errors++;
        else {
            calls++;
            record(&call_us, (now_ns() - c->sent_ns) / 1000);
        }
    }
    begin_call(c);
}

/* Find the stamps in a piece of payload; a stamp may be split between pieces. */
static void scan(Connection *c, const char *bytes, long count, uint64_t read_ns) {
    const char *end = bytes + count, *at = bytes;
    if (count >= TAIL_BYTES)
        memcpy(c->tail, end - TAIL_BYTES, TAIL_BYTES);
    else {
        memmove(c->tail, c->tail + count, (size_t)(TAIL_BYTES - count));
        memcpy(c->tail + TAIL_BYTES - count, bytes, (size_t)count);
    }
    while (at < end) {
        if (!c->stamp_left) {
            at = memchr(at, '@', (size_t)(end - at));
            if (!at)
                return;
            at++;
            c->stamp_left = STAMP_DIGITS;
            c->stamp = 0;
        }
        while (at < end && c->stamp_left) {
            c->stamp = c->stamp * 10 + (uint64_t)(*at++ - '0');
            c->stamp_left--;
        }
        if (c->stamp_left)
            return;
        c->deltas++;
        if (counting) {
            chunks++;
            record(&chunk_us, read_ns > c->stamp ? (read_ns - c->stamp) / 1000 : 0);
            if (!c->has_first)
                record(&first_us, (read_ns - c->sent_ns) / 1000);
        }
        c->has_first = 1;
    }
}

/* Gather bytes up to a mark; how many were taken, or -1 when they do not fit. `found` tells whether the mark came. */
static long gather(Connection *c, const char *bytes, long count, const char *mark, int *found) {
    long taken = 0;
    size_t length = strlen(mark);
    *found = 0;
    while (taken < count && c->head < HEAD_BYTES) {
        c->text[c->head++] = bytes[taken++];
        if ((size_t)c->head >= length && !memcmp(c->text + c->head - length, mark, length)) {
            c->text[c->head] = 0;
            *found = 1;
            return taken;
        }
    }
    return taken < count ? -1 : taken;
}

static void read_head(Connection *c) {
    char *length = strcasestr(c->text, "\ncontent-length:");
    c->is_200 = !strncmp(c->text, "HTTP/1.1 200", 12);
    c->left = length ? atol(length + sizeof("\ncontent-length:") - 1) : 0;
    c->state = length ? BODY : CHUNK_SIZE;
    c->head = 0;
}

/* Follow an answer through a piece of input; 0: it is malformed, or there is more than was asked for. */
static int follow(Connection *c, const char *bytes, long count, uint64_t read_ns) {
    while (count > 0) {
        long taken = 0;
        int found = 0;
        switch (c->state) {
        case HEAD:
            if ((taken = gather(c, bytes, count, "\r\n\r\n", &found)) < 0)
                return 0;
            if (found)
                read_head(c);
            break;
        case CHUNK_SIZE:
            if ((taken = gather(c, bytes, count, "\r\n", &found)) < 0)
                return 0;
            if (found) {
                c->left = strtol(c->text, NULL, 16);
                c->state = c->left ? CHUNK : TRAILER;
                c->head = 0;
            }
            break;
        case BODY:
        case CHUNK:
            taken = count < c->left ? count : c->left;
            scan(c, bytes, taken, read_ns);
            c->left -= taken;
            if (!c->left && c->state == CHUNK)
                c->state = CHUNK_END;
            break;
        case CHUNK_END:
            if ((taken = gather(c, bytes, count, "\r\n", &found)) < 0)
                return 0;
            if (found) {
                c->state = CHUNK_SIZE;
                c->head = 0;
            }
            break;
        case TRAILER:
            if ((taken = gather(c, bytes, count, "\r\n", &found)) < 0)
                return 0;
            if (found) {
                finish(c);
                return count == taken;
            }
            break;
        }
        bytes += taken;
        count -= taken;
        if (c->state == BODY && !c->left) {
            finish(c);
            return count == 0;
        }
    }
    return 1;
}

static void on_input(Connection *c) {
    ssize_t count = recv(c->fd, input, INPUT_BYTES, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0 || !follow(c, input, count, now_ns()))
        fail(c);
}

static void print_ms(const char *name, const Histogram *h) {
    printf(",\"%s\":{\"p50\":%.3f,\"p95\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name, percentile_ms(h, 0.5),
           percentile_ms(h, 0.95), percentile_ms(h, 0.99), (double)h->max / 1000.0);
}

static void compose_request(char **words, int interval_us, const char *usage) {
    char body[1024], pace[64] = "", wanted[64] = "";
    if (usage)
        snprintf(wanted, sizeof wanted, ",\"x_usage\":\"%.20s\"", usage);
    if (interval_us)
        sprintf(pace, " interval_us=%d", interval_us);
    const char *streamed = deltas_wanted ? ",\"stream\":true" : "";
    int bytes = sprintf(body,
                        "{\"model\":\"gpt-oss:120b\",\"messages\":[{\"role\":\"user\",\"content\":\"How do plants grow?%s\"}],"
                        "\"max_tokens\":%d,\"temperature\":0.7%s%s}",
                        pace, deltas_wanted ? deltas_wanted : 100, streamed, wanted);
    request_bytes = (size_t)sprintf(request,
                                    "POST /v1/chat/completions HTTP/1.1\r\nHost: %s:%s\r\nAuthorization: Bearer %s\r\n"
                                    "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                                    words[1], words[2], words[3], bytes, body);
}

int main(int count, char **words) {
    if (count != 9 && count != 10) {
        fprintf(stderr, "usage: client HOST PORT TOKEN CONNECTIONS SECONDS WARMUP_SECONDS DELTAS INTERVAL_US [USAGE]\n");
        return 2;
    }
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(words[2]));
    inet_pton(AF_INET, words[1], &server.sin_addr);
    int connections = atoi(words[4]), opened = 0;
    deltas_wanted = atoi(words[7]);
    compose_request(words, atoi(words[8]), count == 10 ? words[9] : NULL);
    signal(SIGPIPE, SIG_IGN);
    poll_fd = epoll_create1(0);
    Connection *all = calloc((size_t)connections, sizeof *all);
    uint64_t start = now_ns(), counted_from = start + (uint64_t)(atof(words[6]) * 1e9);
    uint64_t end = counted_from + (uint64_t)(atof(words[5]) * 1e9);
    struct epoll_event events[EVENTS];
    for (uint64_t now = start; now < end; now = now_ns()) {
        counting = now >= counted_from;
        while (opened < connections && now - start >= (uint64_t)opened * OPEN_EVERY_US * 1000) {
            open_connection(&all[opened++]);
            now = now_ns();
        }
        int ready = epoll_wait(poll_fd, events, EVENTS, opened < connections ? 1 : 50);
        for (int i = 0; i < ready; i++)
            on_input(events[i].data.ptr);
    }
    double seconds = (double)(end - counted_from) / 1e9;
    printf("{\"connections\":%d,\"seconds\":%.3f,\"calls\":%ld,\"chunks\":%ld,\"not_200\":%ld,\"errors\":%ld,"
           "\"calls_per_s\":%.1f,\"chunks_per_s\":%.1f",
           connections, seconds, calls, chunks, not_200, errors, (double)calls / seconds, (double)chunks / seconds);
    print_ms("call_ms", &call_us);
    print_ms("chunk_ms", &chunk_us);
    print_ms("first_ms", &first_us);
    printf("}\n");
    return 0;
}
