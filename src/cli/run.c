#include "cli/cli.h"
int hk_cli_run(int argc, char **argv)
{
    return hk_cli_fail(HK_EXIT_FAILURE, "run: not built yet");
}
