package main

import (
	"context"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
)

// pdServer answers what a client asks of PD: who leads, what time it is, where a key lives.
type pdServer struct {
	pdpb.UnimplementedPDServer
	cluster *cluster
}

func header() *pdpb.ResponseHeader { return &pdpb.ResponseHeader{ClusterId: clusterID} }

func (s *pdServer) GetMembers(context.Context, *pdpb.GetMembersRequest) (*pdpb.GetMembersResponse, error) {
	me := &pdpb.Member{Name: "pd", MemberId: 1, ClientUrls: []string{s.cluster.pdURL}, PeerUrls: []string{s.cluster.pdURL}}
	return &pdpb.GetMembersResponse{Header: header(), Members: []*pdpb.Member{me}, Leader: me, EtcdLeader: me}, nil
}

func (s *pdServer) Tso(stream pdpb.PD_TsoServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		answer := &pdpb.TsoResponse{Header: header(), Count: request.Count, Timestamp: s.cluster.timestamps(request.Count)}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func (s *pdServer) GetRegion(_ context.Context, request *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	region, leader, _ := s.cluster.regions.GetRegionByKey(request.RegionKey)
	return &pdpb.GetRegionResponse{Header: header(), Region: region, Leader: leader}, nil
}

func (s *pdServer) GetRegionByID(_ context.Context, request *pdpb.GetRegionByIDRequest) (*pdpb.GetRegionResponse, error) {
	region, leader, _ := s.cluster.regions.GetRegionByID(request.RegionId)
	return &pdpb.GetRegionResponse{Header: header(), Region: region, Leader: leader}, nil
}

func (s *pdServer) GetStore(_ context.Context, request *pdpb.GetStoreRequest) (*pdpb.GetStoreResponse, error) {
	return &pdpb.GetStoreResponse{Header: header(), Store: s.cluster.regions.GetStore(request.StoreId)}, nil
}

func (s *pdServer) GetAllStores(context.Context, *pdpb.GetAllStoresRequest) (*pdpb.GetAllStoresResponse, error) {
	return &pdpb.GetAllStoresResponse{Header: header(), Stores: []*metapb.Store{s.cluster.regions.GetStore(storeID)}}, nil
}

func (s *pdServer) UpdateGCSafePoint(_ context.Context, request *pdpb.UpdateGCSafePointRequest) (*pdpb.UpdateGCSafePointResponse, error) {
	return &pdpb.UpdateGCSafePointResponse{Header: header(), NewSafePoint: s.cluster.raiseSafePoint(request.SafePoint)}, nil
}
