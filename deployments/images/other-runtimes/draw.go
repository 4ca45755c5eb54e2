// Draws from every generator of Go, at each line that a visitor sends.
package main

import (
	"bufio"
	crypto "crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"math/rand"
	v2 "math/rand/v2"
	"net"
	"os"
)

func draw() string {
	bytes := make([]byte, 16)
	if _, err := crypto.Read(bytes); err != nil {
		panic(err)
	}
	number, err := crypto.Int(crypto.Reader, new(big.Int).Lsh(big.NewInt(1), 80))
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("secret crypto/rand.Read %s\nsecret crypto/rand.Int %s\nopen math/rand %d\nopen math/rand/v2 %d",
		hex.EncodeToString(bytes), number, rand.Int63(), v2.Int64())
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		panic(err)
	}
	for {
		visitor, err := listener.Accept()
		if err != nil {
			continue
		}
		if _, err := bufio.NewReader(visitor).ReadString('\n'); err == nil {
			fmt.Fprint(visitor, draw())
		}
		visitor.Close()
	}
}
