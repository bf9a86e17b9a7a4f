/* The capture's directory and file.
 *
 * A capture is written through a shared mapping, so it lies in memory where possible: a dirty page
 * of a disk file can stall the program when it is written back. The directories are tried in the
 * order of read/find.h; one that cannot be made, is not ours or has too little room is passed over,
 * except $HEAPKEEPER_DIR, which was asked for.
 *
 * Everything is created anew, by its own name, without following links: /dev/shm and /tmp are
 * everybody's.
 */
#include "cli/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "read/find.h"

#define ROOM_WANTED ((uint64_t)16 << 20)  /* bytes free, or the next directory is tried */
#define ROOM_LEAST  ((uint64_t)512 << 10) /* bytes free, or there is no point in starting */

static uint64_t room_in(const char *directory)
{
    struct statvfs fs;
    return statvfs(directory, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : 0;
}

/* mkdir -p, each directory 0700. */
static bool make_directories(const char *directory)
{
    char *path = hk_must_strdup(directory);
    for (char *at = path + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = 0;
        if (mkdir(path, 0700) != 0 && errno != EEXIST && access(path, F_OK) != 0) {
            free(path);
            return false;
        }
        *at = '/';
    }
    bool made = mkdir(path, 0700) == 0 || errno == EEXIST;
    free(path);
    return made;
}

static bool is_sound(const char *directory, bool asked_for, struct hk_error *error)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (asked_for ? 0 : O_NOFOLLOW));
    struct stat st;
    bool sound = false;

    if (fd < 0 || fstat(fd, &st) != 0) {
        hk_error_set(error, "%s: cannot be used for captures: %s", directory, strerror(errno));
    } else if (st.st_uid != geteuid() && !asked_for) {
        hk_error_set(error,
                     "%s: belongs to another user; set HEAPKEEPER_DIR to a directory of your own",
                     directory);
    } else if (asked_for && (st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX)) {
        hk_error_set(error, "%s: anybody may write there; make it private (chmod 700)", directory);
    } else {
        sound = asked_for || (st.st_mode & 077) == 0 || fchmod(fd, 0700) == 0;
        if (!sound)
            hk_error_set(error, "%s: cannot be made private: %s", directory, strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    if (sound && access(directory, W_OK | X_OK) != 0) {
        hk_error_set(error, "%s: no capture can be written there: %s", directory, strerror(errno));
        sound = false;
    }
    return sound;
}

static bool make_place(const char *directory, bool asked_for, struct hk_error *error)
{
    bool made =
        asked_for ? make_directories(directory) : mkdir(directory, 0700) == 0 || errno == EEXIST;
    if (!made) {
        hk_error_set(error, "%s: cannot be made: %s", directory, strerror(errno));
        return false;
    }
    return is_sound(directory, asked_for, error);
}

static char *absolute(const char *path)
{
    char *here, *result = NULL;
    if (path[0] == '/')
        return hk_must_strdup(path);
    here = getcwd(NULL, 0);
    if (!here || asprintf(&result, "%s/%s", here, path) < 0)
        result = NULL;
    free(here);
    return result;
}

/* The directory for captures: the first with room, else the roomiest that has any. */
static char *choose_directory(struct hk_error *error)
{
    char *places[HK_PLACES_MAX], *best = NULL;
    const char *asked = getenv("HEAPKEEPER_DIR");
    bool asked_for = asked && *asked, refused = false;
    size_t count = hk_places(places);
    uint64_t best_room = 0;

    for (size_t i = 0; i < count && best_room < ROOM_WANTED; i++) {
        char *directory = absolute(places[i]);
        struct hk_error why;
        uint64_t room = 0;
        if (!directory || !make_place(directory, asked_for, &why)) {
            if (directory && !refused)
                *error = why;
            refused = true;
        } else if ((room = room_in(directory)) > best_room) {
            free(best);
            best = hk_must_strdup(directory);
            best_room = room;
        }
        free(directory);
    }
    if (best_room < ROOM_LEAST) {
        if (best || !refused)
            hk_error_set(error,
                         "%s: no space left for a capture; make room, or set HEAPKEEPER_DIR to "
                         "another place",
                         best ? best : places[0]);
        free(best);
        best = NULL;
    }
    for (size_t i = 0; i < count; i++)
        free(places[i]);
    return best;
}

/* Creates the file and remembers which it is. errno says why not. */
static bool create(struct hk_place *place, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool known = fchmod(fd, 0600) == 0 && fstat(fd, &st) == 0; /* whatever the umask */
    close(fd);
    if (!known)
        return false;
    place->device = st.st_dev;
    place->inode = st.st_ino;
    place->file = hk_must_strdup(path);
    return true;
}

/* A program's name as part of a file's name. */
static void tame(char *to, size_t size, const char *name)
{
    size_t at = 0;
    for (; *name && at + 1 < size; name++) {
        bool fine = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
                    (*name >= '0' && *name <= '9') || *name == '_' || *name == '-' ||
                    (*name == '.' && at);
        to[at++] = fine ? *name : '_';
    }
    to[at] = 0;
}

bool hk_place_default(struct hk_place *place, const char *name, struct hk_error *error)
{
    char tamed[65];
    *place = (struct hk_place){.directory = choose_directory(error)};
    if (!place->directory)
        return false;
    hk_prune(place->directory);
    tame(tamed, sizeof tamed, name);
    for (int i = 0; i < 100 && !place->file; i++) {
        char *path = NULL;
        if (asprintf(&path, "%s/%s.%d.%lld.%d.hkc", place->directory, tamed, (int)getpid(),
                     (long long)time(NULL), i) < 0)
            break;
        bool made = create(place, path);
        if (!made && errno != EEXIST)
            hk_error_set(error, "%s: the capture cannot be created: %s", path, strerror(errno));
        bool again = !made && errno == EEXIST;
        free(path);
        if (!again)
            break;
    }
    return place->file != NULL;
}

/* Makes way for a capture at `path`: only a regular file of ours is removed. */
static bool make_way(const char *path, bool force, struct hk_error *error)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return true;
    if (S_ISDIR(st.st_mode))
        hk_error_set(error, "%s: is a directory; -o needs the name of a file", path);
    else if (!S_ISREG(st.st_mode))
        hk_error_set(error, "%s: is not a regular file; a capture must be one", path);
    else if (!force)
        hk_error_set(error, "%s: exists already; --force writes over it", path);
    else if (unlink(path) != 0 && errno != ENOENT)
        hk_error_set(error, "%s: cannot be replaced: %s", path, strerror(errno));
    else
        return true;
    return false;
}

bool hk_place_output(struct hk_place *place, const char *output, bool force, struct hk_error *error)
{
    *place = (struct hk_place){.output = absolute(output)};
    if (!place->output) {
        hk_error_set(error, "%s: the working directory is gone; give an absolute path", output);
        return false;
    }
    if (strcmp(place->output, "/dev/null") == 0)
        return true;
    bool made = false;
    for (int i = 0; i < 100 && !made; i++) { /* another run may make its own between these two */
        if (!make_way(place->output, force, error))
            return false;
        made = create(place, place->output);
        if (!made && errno != EEXIST)
            break;
    }
    if (!made) {
        hk_error_set(error, "%s: the capture cannot be created: %s", output, strerror(errno));
        return false;
    }
    char *directory = hk_must_strdup(place->output);
    *(strrchr(directory, '/') + 1) = 0;
    bool room = room_in(directory) >= ROOM_LEAST;
    if (!room) {
        hk_error_set(error, "%s: no space left for a capture in %s", output, directory);
        hk_place_undo(place);
    }
    free(directory);
    return room;
}

static bool splits(const char *path)
{
    return strpbrk(path, " :$") != NULL;
}

char *hk_place_for_link(const struct hk_place *place)
{
    char *places[HK_PLACES_MAX], *found = NULL;
    struct hk_error ignored;
    if (place->directory && !splits(place->directory))
        return hk_must_strdup(place->directory);
    size_t count = hk_places(places);
    for (size_t i = 0; i < count; i++) {
        if (!found && places[i][0] == '/' && !splits(places[i]) &&
            make_place(places[i], false, &ignored))
            found = hk_must_strdup(places[i]);
        free(places[i]);
    }
    char name[2][64];
    snprintf(name[0], sizeof name[0], "/dev/shm/heapkeeper-%u", (unsigned)geteuid());
    snprintf(name[1], sizeof name[1], "/tmp/heapkeeper-%u", (unsigned)geteuid());
    for (int i = 0; i < 2 && !found; i++) {
        if (make_place(name[i], false, &ignored))
            found = hk_must_strdup(name[i]);
    }
    return found;
}

void hk_place_undo(const struct hk_place *place)
{
    if (place->file)
        unlink(place->file);
}

void hk_place_free(struct hk_place *place)
{
    free(place->directory);
    free(place->file);
    free(place->output);
}
