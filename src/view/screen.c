/* See screen.h. The escape sequences are xterm's, which every terminal of today knows. */
#include "view/screen.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define ENTER "\033[?1049h\033[?25l\033[?7l" /* another screen, no cursor, long lines are cut */
#define LEAVE "\033[?7h\033[?25h\033[?1049l"

static const int fatal[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGPIPE, SIGALRM};
#define FATAL (sizeof fatal / sizeof fatal[0])

static struct {
    struct termios before;
    struct sigaction old[FATAL], old_resize, old_stop;
    volatile sig_atomic_t open, stop, resized;
    int pending; /* a byte that came behind an ESC of its own; 0: none */
} screen;

static void put(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDOUT_FILENO, text, size);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return;
        if (n > 0) {
            text += n;
            size -= (size_t)n;
        }
    }
}

/* Also in a signal handler. */
static void restore(void)
{
    if (!screen.open)
        return;
    screen.open = 0;
    put(LEAVE, sizeof LEAVE - 1);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &screen.before);
}

static void die(int number)
{
    restore();
    signal(number, SIG_DFL);
    raise(number);
}

static void note(int number)
{
    if (number == SIGTSTP)
        screen.stop = 1;
    else
        screen.resized = 1;
}

bool hk_screen_possible(void)
{
    const char *term = getenv("TERM");
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

static bool enter(void)
{
    if (tcgetattr(STDIN_FILENO, &screen.before) != 0)
        return false;
    struct termios raw = screen.before;
    raw.c_iflag &= (tcflag_t) ~(ICRNL | IXON);
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO | ISIG | IEXTEN);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    screen.open = 1;
    if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw) != 0) {
        screen.open = 0;
        return false;
    }
    put(ENTER, sizeof ENTER - 1);
    return true;
}

bool hk_screen_open(void)
{
    static bool registered;
    struct sigaction action = {.sa_handler = die};
    fflush(stdout);
    for (size_t i = 0; i < FATAL; i++)
        sigaction(fatal[i], &action, &screen.old[i]);
    action.sa_handler = note;
    sigaction(SIGWINCH, &action, &screen.old_resize);
    sigaction(SIGTSTP, &action, &screen.old_stop);
    if (!registered)
        atexit(restore);
    registered = true;
    return enter();
}

void hk_screen_close(void)
{
    restore();
    for (size_t i = 0; i < FATAL; i++)
        sigaction(fatal[i], &screen.old[i], NULL);
    sigaction(SIGWINCH, &screen.old_resize, NULL);
    sigaction(SIGTSTP, &screen.old_stop, NULL);
}

static void stop(void)
{
    screen.stop = 0;
    restore();
    raise(SIGSTOP);
    enter(); /* someone said SIGCONT */
}

void hk_screen_size(unsigned *rows, unsigned *columns)
{
    struct winsize size;
    *rows = 24;
    *columns = 80;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row && size.ws_col) {
        *rows = size.ws_row;
        *columns = size.ws_col;
    }
}

/* ---- keys ---- */

/* The next byte within `milliseconds`; -1: none, -2: the terminal is gone. */
static int next_byte(int milliseconds)
{
    struct pollfd ready = {.fd = STDIN_FILENO, .events = POLLIN};
    unsigned char byte;
    if (screen.pending) {
        int kept = screen.pending;
        screen.pending = 0;
        return kept;
    }
    int n = poll(&ready, 1, milliseconds);
    if (n <= 0)
        return -1;
    if (read(STDIN_FILENO, &byte, 1) == 1)
        return byte;
    return errno == EINTR || errno == EAGAIN ? -1 : -2;
}

/* Behind ESC: "[A", "OA", "[5~", ... An ESC alone is itself. */
static int escape_key(void)
{
    static const struct {
        char end;
        int key;
    } letters[] = {{'A', HK_KEY_UP},   {'B', HK_KEY_DOWN}, {'C', HK_KEY_RIGHT}, {'D', HK_KEY_LEFT},
                   {'H', HK_KEY_HOME}, {'F', HK_KEY_END}};
    int first = next_byte(50), number = 0, byte;
    if (first != '[' && first != 'O') {
        screen.pending = first > 0 ? first : 0;
        return 27;
    }
    while ((byte = next_byte(50)) >= 0 && ((byte >= '0' && byte <= '9') || byte == ';'))
        number = byte == ';' || number > 1000 ? number : number * 10 + byte - '0';
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++)
        if (letters[i].end == byte)
            return letters[i].key;
    if (byte != '~')
        return HK_KEY_NONE;
    return number == 5                  ? HK_KEY_PAGE_UP
           : number == 6                ? HK_KEY_PAGE_DOWN
           : number == 1 || number == 7 ? HK_KEY_HOME
           : number == 4 || number == 8 ? HK_KEY_END
                                        : HK_KEY_NONE;
}

int hk_screen_key(int milliseconds)
{
    if (screen.stop)
        stop();
    if (screen.resized) {
        screen.resized = 0;
        return HK_KEY_NONE;
    }
    int byte = next_byte(milliseconds);
    if (screen.stop)
        stop();
    if (byte == -2 || byte == 3 || byte == 4)
        return HK_KEY_QUIT;
    if (byte == 26) { /* ^Z */
        stop();
        return HK_KEY_NONE;
    }
    return byte < 0 ? HK_KEY_NONE : byte == 27 ? escape_key() : byte;
}

/* ---- drawing ---- */

size_t hk_screen_show(const char *text, size_t first, const char *status)
{
    unsigned rows, columns;
    char *frame = NULL;
    size_t size = 0, lines = 0, drawn = 0;
    hk_screen_size(&rows, &columns);
    FILE *out = open_memstream(&frame, &size);
    if (!out)
        return 0;
    fputs("\033[H", out);
    for (const char *at = text; *at; lines++) {
        const char *end = strchrnul(at, '\n');
        if (lines >= first && drawn + 1 < rows) {
            fprintf(out, "%.*s\033[0m\033[K\r\n", (int)(end - at), at);
            drawn++;
        }
        at = *end ? end + 1 : end;
    }
    fprintf(out, "\033[J\033[%u;1H\033[7m%s\033[K\033[0m", rows, status);
    fclose(out);
    put(frame, size);
    free(frame);
    return lines;
}
