// Tells each visitor the address from which he comes.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(answer http.ResponseWriter, question *http.Request) {
		host, _, _ := net.SplitHostPort(question.RemoteAddr)
		fmt.Fprintln(answer, host)
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
