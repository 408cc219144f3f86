// Command tikv-test-server puts the real gRPC services of PD and TiKV around the transactional store that TiKV's
// own Go client ships for its tests (testutils.NewMockTiKV: Percolator over a local disk), so that the real Rust
// client can be driven through its real protocol, with faults on demand.
//
// What it does not have, and so cannot prove anything about: Raft, several stores, leaders that move, collection
// of old versions, time to live, a queue of waiters for a lock, disks that fill up, TiKV's own limits and speed.
// Region splits are forgotten at a restart. Pessimistic locks, async commit, 1PC and raw keys are refused.
//
// Data, locks and commits survive a kill -9. Faults are commands on standard input (commands.go); each is
// answered with one line on standard output.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
)

func main() {
	data := flag.String("data", "", "directory of the store")
	pd := flag.String("pd", "127.0.0.1:0", "address of PD")
	kv := flag.String("kv", "127.0.0.1:0", "address of TiKV")
	ca := flag.String("ca", "", "PEM file: whoever connects needs a certificate of this authority")
	certificate := flag.String("cert", "", "PEM file: this server's certificate")
	key := flag.String("key", "", "PEM file: its key")
	flag.Parse()

	credentials, err := transportCredentials(*ca, *certificate, *key)
	exitOn(err)
	cluster, err := newCluster(*data)
	exitOn(err)
	faults := newFaults()
	pdService := &service{name: "pd", faults: faults, credentials: credentials}
	kvService := &service{name: "kv", faults: faults, credentials: credentials}
	// The addresses are fixed before either is served, because PD tells both.
	exitOn(pdService.listen(*pd))
	exitOn(kvService.listen(*kv))
	cluster.place(pdService.address, kvService.address)
	pdService.register = cluster.registerPD
	kvService.register = cluster.registerKV
	pdService.serve()
	kvService.serve()
	fmt.Printf("ready pd=%s kv=%s\n", pdService.address, kvService.address)

	commands := commands{cluster: cluster, faults: faults, services: map[string]*service{"pd": pdService, "kv": kvService}}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := commands.run(lines.Text())
		if err != nil {
			answer = "error " + err.Error()
		}
		fmt.Println(answer)
	}
	// Whoever started us is gone.
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
