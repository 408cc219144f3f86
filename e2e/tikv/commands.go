package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// commands are the faults that can be asked for:
//
//	stop pd|kv             refuse and break connections        start pd|kv   again, on the same port
//	freeze pd|kv           connections stay open, in silence   thaw pd|kv
//	fail METHOD N          the next N calls are answered with an error and not carried out
//	drop METHOD N          the next N calls are carried out; then their connection breaks
//	delay METHOD N MILLIS  the next N calls wait first
//	clear                  no more fail, drop and delay
//	split HEXKEY           a region begins at this key
//	count METHOD           how often it was called
//	trace on|off           requests and answers on standard error
//	safepoint              the highest safe point that PD was given
//
// METHOD is a gRPC method's name: KvGet, KvScan, KvPrewrite, KvCommit, GetRegion, ...
type commands struct {
	cluster  *cluster
	faults   *faults
	services map[string]*service
}

func (c *commands) run(line string) (string, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", errors.New("no command")
	}
	arguments := words[1:]
	argument := func(i int) string {
		if i < len(arguments) {
			return arguments[i]
		}
		return ""
	}
	switch words[0] {
	case "stop", "start", "freeze", "thaw":
		service := c.services[argument(0)]
		if service == nil {
			return "", errors.New("pd or kv?")
		}
		switch words[0] {
		case "stop":
			service.stop()
		case "start":
			return "ok", service.start()
		case "freeze":
			service.gate.set(true)
		case "thaw":
			service.gate.set(false)
		}
	case "fail", "drop", "delay":
		times, err := strconv.Atoi(argument(1))
		if err != nil {
			return "", err
		}
		planned := &rule{left: times}
		switch words[0] {
		case "fail":
			planned.action = fail
		case "drop":
			planned.action = drop
		case "delay":
			millis, err := strconv.Atoi(argument(2))
			if err != nil {
				return "", err
			}
			planned.action, planned.wait = delay, time.Duration(millis)*time.Millisecond
		}
		c.faults.set(argument(0), planned)
	case "clear":
		c.faults.clear()
	case "split":
		key, err := hex.DecodeString(argument(0))
		if err != nil {
			return "", err
		}
		return "ok", c.cluster.split(key)
	case "count":
		return fmt.Sprint(c.faults.count(argument(0))), nil
	case "trace":
		c.faults.setTrace(argument(0) == "on")
	case "safepoint":
		return fmt.Sprint(c.cluster.raiseSafePoint(0)), nil
	default:
		return "", errors.New("unknown command " + words[0])
	}
	return "ok", nil
}
