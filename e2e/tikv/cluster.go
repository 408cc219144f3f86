package main

import (
	"errors"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/tikv/client-go/v2/testutils"
	"google.golang.org/grpc"
)

// The cluster's id, which PD stamps on every answer.
const clusterID = 7_146_313

// Ids of the one store, and of its first region and peer.
const (
	storeID  = 1
	regionID = 2
	peerID   = 3
)

// cluster is one store with its regions, and the clock that PD hands out.
type cluster struct {
	client  *testutils.MockClient
	regions *testutils.MockCluster
	pdURL   string
	kv      string

	mu        sync.Mutex
	physical  int64
	logical   int64
	safePoint uint64
}

func newCluster(data string) (*cluster, error) {
	if data == "" {
		return nil, errors.New("-data names the directory of the store")
	}
	client, regions, _, err := testutils.NewMockTiKV(data, nil)
	if err != nil {
		return nil, err
	}
	return &cluster{client: client, regions: regions}, nil
}

// place tells the cluster where its services are; ids allocated later are above the fixed ones.
func (c *cluster) place(pd, kv string) {
	c.pdURL, c.kv = "http://"+pd, kv
	c.regions.AllocIDs(peerID + 1)
	c.regions.AddStore(storeID, kv)
	c.regions.Bootstrap(regionID, []uint64{storeID}, []uint64{peerID}, peerID)
}

// split begins a new region at a key as clients write it.
func (c *cluster) split(key []byte) error {
	ids := c.regions.AllocIDs(2)
	for _, region := range c.regions.GetAllRegions() {
		if containsKey(region.Meta, encodeKey(key)) {
			c.regions.Split(region.Meta.Id, ids[0], key, []uint64{ids[1]}, ids[1])
			return nil
		}
	}
	return errors.New("no region has this key")
}

func containsKey(region *metapb.Region, key []byte) bool {
	return string(region.StartKey) <= string(key) && (len(region.EndKey) == 0 || string(key) < string(region.EndKey))
}

// encodeKey is the order-preserving form in which region borders are written: groups of eight bytes, each followed
// by 255 minus the padding in it.
func encodeKey(key []byte) []byte {
	var out []byte
	for {
		group := make([]byte, 8)
		n := copy(group, key)
		out = append(append(out, group...), byte(255-(8-n)))
		if n < 8 {
			return out
		}
		key = key[n:]
	}
}

// timestamps reserves count timestamps and returns the highest, always above all that were handed out before:
// also before a restart, because it never runs ahead of the wall clock by more than what one call asks for.
func (c *cluster) timestamps(count uint32) *pdpb.Timestamp {
	const logicalBits = 18
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now().UnixMilli(); now > c.physical {
		c.physical, c.logical = now, 0
	}
	if c.logical+int64(count) >= 1<<logicalBits {
		c.physical, c.logical = c.physical+1, 0
	}
	c.logical += int64(count)
	return &pdpb.Timestamp{Physical: c.physical, Logical: c.logical}
}

// raiseSafePoint moves the safe point forward only, as PD does, and returns it. Nothing is collected here.
func (c *cluster) raiseSafePoint(to uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.safePoint = max(c.safePoint, to)
	return c.safePoint
}

func max(a, b uint64) uint64 {
	if a > b {
		return a
	}
	return b
}

func (c *cluster) registerPD(server *grpc.Server) {
	pdpb.RegisterPDServer(server, &pdServer{cluster: c})
}
func (c *cluster) registerKV(server *grpc.Server) {
	tikvpb.RegisterTikvServer(server, &kvServer{cluster: c})
}
