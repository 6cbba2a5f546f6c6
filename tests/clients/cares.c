/* Resolves each argument with c-ares, one after another, and prints its addresses on one line. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>

static void found(void *done, int status, int timeouts, struct ares_addrinfo *all)
{
    (void)timeouts;
    if (status != ARES_SUCCESS)
        printf(status == ARES_ENOTFOUND || status == ARES_ENODATA ? " absent" : " failed");
    for (struct ares_addrinfo_node *one = all ? all->nodes : NULL; one; one = one->ai_next) {
        char text[INET6_ADDRSTRLEN];
        const void *address = one->ai_family == AF_INET
            ? (const void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
            : (const void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
        printf(" %s", inet_ntop(one->ai_family, address, text, sizeof text));
    }
    if (all)
        ares_freeaddrinfo(all);
    *(int *)done = 1;
}

int main(int argc, char **argv)
{
    ares_channel channel;
    struct ares_addrinfo_hints hints;
    memset(&hints, 0, sizeof hints);
    hints.ai_family = AF_UNSPEC;
    if (ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
        return 2;
    for (int i = 1; i < argc; i++) {
        int done = 0;
        printf("%s", argv[i]);
        ares_getaddrinfo(channel, argv[i], NULL, &hints, found, &done);
        while (!done) {
            fd_set reads, writes;
            struct timeval wait;
            FD_ZERO(&reads);
            FD_ZERO(&writes);
            int count = ares_fds(channel, &reads, &writes);
            if (count == 0)
                break;
            select(count, &reads, &writes, NULL, ares_timeout(channel, NULL, &wait));
            ares_process(channel, &reads, &writes);
        }
        printf("\n");
    }
    ares_destroy(channel);
    return 0;
}
