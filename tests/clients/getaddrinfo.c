/* Resolves each argument as any program does and prints its addresses, sorted by the library, on one line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints, *found = NULL;
        memset(&hints, 0, sizeof hints);
        hints.ai_family = AF_UNSPEC;
        hints.ai_socktype = SOCK_STREAM;
        int error = getaddrinfo(argv[i], NULL, &hints, &found);
        printf("%s", argv[i]);
        if (error) {
            int absent = error == EAI_NONAME || error == EAI_NODATA;
            printf(" %s %s\n", absent ? "absent" : "failed", gai_strerror(error));
            failed = 1;
            continue;
        }
        for (struct addrinfo *one = found; one; one = one->ai_next) {
            char text[INET6_ADDRSTRLEN];
            const void *address = one->ai_family == AF_INET
                ? (const void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr
                : (const void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr;
            printf(" %s", inet_ntop(one->ai_family, address, text, sizeof text));
        }
        printf("\n");
        freeaddrinfo(found);
    }
    return failed;
}
