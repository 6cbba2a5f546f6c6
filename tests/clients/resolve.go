// Resolves each argument with Go's own resolver and prints its addresses on one line.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range os.Args[1:] {
		fmt.Print(name)
		found, err := resolver.LookupIPAddr(context.Background(), name)
		if err != nil {
			fmt.Print(" error")
		}
		for _, one := range found {
			fmt.Print(" ", one.IP)
		}
		fmt.Println()
	}
}
