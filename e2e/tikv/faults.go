package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// faults are what happens to the next calls of a method.
type faults struct {
	mu     sync.Mutex
	rules  map[string]*rule
	counts map[string]int
	trace  bool
}

type action int

const (
	// fail answers with an error and does nothing.
	fail action = iota
	// drop does what was asked, then breaks the connection instead of answering.
	drop
	// delay waits, then does what was asked.
	delay
)

type rule struct {
	action action
	left   int
	wait   time.Duration
}

func newFaults() *faults { return &faults{rules: map[string]*rule{}, counts: map[string]int{}} }

func (f *faults) set(method string, r *rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules[method] = r
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = map[string]*rule{}
}

func (f *faults) setTrace(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace = on
}

func (f *faults) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[method]
}

// take counts a call and uses up one of what is planned for it.
func (f *faults) take(method string) (rule, bool, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[method]++
	planned := f.rules[method]
	if planned == nil || planned.left == 0 {
		return rule{}, false, f.trace
	}
	planned.left--
	return *planned, true, f.trace
}

// unary stands before every method but the stream of timestamps.
func (f *faults) unary(s *service) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request interface{}, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (interface{}, error) {
		method := path.Base(info.FullMethod)
		planned, hit, traced := f.take(method)
		if hit && planned.action == delay {
			time.Sleep(planned.wait)
		}
		if hit && planned.action == fail {
			return nil, status.Error(codes.Unavailable, "fault: fail")
		}
		answer, err := handler(ctx, request)
		if traced {
			fmt.Fprintf(os.Stderr, "%s %s %v -> %v %v\n", s.name, method, request, answer, err)
		}
		if hit && planned.action == drop {
			if from, ok := peer.FromContext(ctx); ok {
				s.gate.breakOne(from.Addr.String())
			}
			return nil, status.Error(codes.Unavailable, "fault: drop")
		}
		return answer, err
	}
}
