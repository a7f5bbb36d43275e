// The first process of every pod: it holds the pod's namespaces open, and buries orphans.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for caught := range signals {
		if caught != syscall.SIGCHLD {
			os.Exit(0)
		}
		bury()
	}
}

// bury reaps every child that has ended. One signal may stand for several of them.
func bury() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != syscall.EINTR && pid <= 0 {
			return
		}
	}
}
