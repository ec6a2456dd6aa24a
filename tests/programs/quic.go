// HTTP/3: "serve ADDRESS" answers each body with its SHA-256 and as many bytes; anything else is addresses to send 4 MiB to.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/lucas-clemente/quic-go/http3"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serve(address string) {
	bound, err := net.ListenPacket("udp", address)
	must(err)
	fmt.Println("serves", address)
	server := http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate()}}),
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
			body, err := io.ReadAll(request.Body)
			if err != nil {
				return
			}
			sum := sha256.Sum256(body)
			answer.Write(sum[:])
			answer.Write(body)
		}),
	}
	must(server.Serve(bound))
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
	}
	body := make([]byte, 4<<20)
	_, err := rand.Read(body)
	must(err)
	sum := sha256.Sum256(body)
	for _, address := range os.Args[1:] {
		tripper := &http3.RoundTripper{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		client := http.Client{Transport: tripper, Timeout: time.Minute}
		answer, err := client.Post("https://"+address+"/", "application/octet-stream", bytes.NewReader(body))
		must(err)
		got, err := io.ReadAll(answer.Body)
		must(err)
		fmt.Println(answer.Proto, bytes.Equal(got, append(sum[:], body...)))
		tripper.Close()
	}
}
