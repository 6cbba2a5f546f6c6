// Resolves each argument with Go's own resolver and prints its addresses on one line.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range os.Args[1:] {
		fmt.Print(name)
		found, err := resolver.LookupIPAddr(context.Background(), name)
		var why *net.DNSError
		if errors.As(err, &why) && why.IsNotFound {
			fmt.Print(" absent")
		} else if err != nil {
			fmt.Print(" failed")
		}
		for _, one := range found {
			fmt.Print(" ", one.IP)
		}
		fmt.Println()
	}
}
