package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pingcap/kvproto/pkg/errorpb"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/tikv/client-go/v2/tikvrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// kvServer answers what optimistic transactions ask of TiKV. Where the store for tests answers otherwise than
// TiKV, and the Rust client minds, the difference is bridged at the method.
type kvServer struct {
	tikvpb.UnimplementedTikvServer
	cluster *cluster
}

// run hands a request to the store. The store panics where TiKV answers with an error.
func (s *kvServer) run(ctx context.Context, kind tikvrpc.CmdType, request interface{}, header *kvrpcpb.Context) (answer interface{}, err error) {
	if header == nil {
		return nil, status.Error(codes.InvalidArgument, "request without context")
	}
	wrapped := tikvrpc.NewRequest(kind, request, *header)
	defer func() {
		if panicked := recover(); panicked != nil {
			text := fmt.Sprint(panicked)
			if !strings.Contains(text, "not in region") {
				answer, err = nil, status.Error(codes.Internal, text)
				return
			}
			var response *tikvrpc.Response
			response, err = tikvrpc.GenRegionErrorResp(wrapped, &errorpb.Error{Message: text, KeyNotInRegion: &errorpb.KeyNotInRegion{RegionId: header.RegionId}})
			if err == nil {
				answer = response.Resp
			}
		}
	}()
	response, err := s.cluster.client.SendRequest(ctx, s.cluster.kv, wrapped, time.Minute)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return response.Resp, nil
}

// KvGet says not_found where the store leaves an empty value.
func (s *kvServer) KvGet(ctx context.Context, request *kvrpcpb.GetRequest) (*kvrpcpb.GetResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdGet, request, request.Context)
	response, _ := answer.(*kvrpcpb.GetResponse)
	if response != nil && response.RegionError == nil && response.Error == nil && len(response.Value) == 0 {
		response.NotFound = true
	}
	return response, err
}

func (s *kvServer) KvScan(ctx context.Context, request *kvrpcpb.ScanRequest) (*kvrpcpb.ScanResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdScan, request, request.Context)
	response, _ := answer.(*kvrpcpb.ScanResponse)
	return response, err
}

func (s *kvServer) KvBatchGet(ctx context.Context, request *kvrpcpb.BatchGetRequest) (*kvrpcpb.BatchGetResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdBatchGet, request, request.Context)
	response, _ := answer.(*kvrpcpb.BatchGetResponse)
	return response, err
}

func (s *kvServer) KvPrewrite(ctx context.Context, request *kvrpcpb.PrewriteRequest) (*kvrpcpb.PrewriteResponse, error) {
	if request.UseAsyncCommit || request.TryOnePc {
		return nil, status.Error(codes.InvalidArgument, "neither async commit nor 1PC here")
	}
	answer, err := s.run(ctx, tikvrpc.CmdPrewrite, request, request.Context)
	response, _ := answer.(*kvrpcpb.PrewriteResponse)
	return response, err
}

func (s *kvServer) KvCommit(ctx context.Context, request *kvrpcpb.CommitRequest) (*kvrpcpb.CommitResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdCommit, request, request.Context)
	response, _ := answer.(*kvrpcpb.CommitResponse)
	if response != nil && response.Error == nil && response.RegionError == nil {
		response.CommitVersion = request.CommitVersion
	}
	return response, err
}

func (s *kvServer) KvBatchRollback(ctx context.Context, request *kvrpcpb.BatchRollbackRequest) (*kvrpcpb.BatchRollbackResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdBatchRollback, request, request.Context)
	response, _ := answer.(*kvrpcpb.BatchRollbackResponse)
	return response, err
}

func (s *kvServer) KvCleanup(ctx context.Context, request *kvrpcpb.CleanupRequest) (*kvrpcpb.CleanupResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdCleanup, request, request.Context)
	response, _ := answer.(*kvrpcpb.CleanupResponse)
	return response, err
}

// KvCheckTxnStatus names the lock, without which the Rust client panics.
func (s *kvServer) KvCheckTxnStatus(ctx context.Context, request *kvrpcpb.CheckTxnStatusRequest) (*kvrpcpb.CheckTxnStatusResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdCheckTxnStatus, request, request.Context)
	response, _ := answer.(*kvrpcpb.CheckTxnStatusResponse)
	if response != nil && response.LockTtl > 0 {
		response.LockInfo = &kvrpcpb.LockInfo{
			Key: request.PrimaryKey, PrimaryLock: request.PrimaryKey, LockVersion: request.LockTs, LockTtl: response.LockTtl,
		}
	}
	return response, err
}

func (s *kvServer) KvTxnHeartBeat(ctx context.Context, request *kvrpcpb.TxnHeartBeatRequest) (*kvrpcpb.TxnHeartBeatResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdTxnHeartBeat, request, request.Context)
	response, _ := answer.(*kvrpcpb.TxnHeartBeatResponse)
	return response, err
}

// KvScanLock keeps to the range and the limit, which the store ignores.
func (s *kvServer) KvScanLock(ctx context.Context, request *kvrpcpb.ScanLockRequest) (*kvrpcpb.ScanLockResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdScanLock, request, request.Context)
	response, _ := answer.(*kvrpcpb.ScanLockResponse)
	if response != nil {
		var kept []*kvrpcpb.LockInfo
		for _, lock := range response.Locks {
			within := bytes.Compare(lock.Key, request.StartKey) >= 0 &&
				(len(request.EndKey) == 0 || bytes.Compare(lock.Key, request.EndKey) < 0)
			if within && (request.Limit == 0 || len(kept) < int(request.Limit)) {
				kept = append(kept, lock)
			}
		}
		response.Locks = kept
	}
	return response, err
}

func (s *kvServer) KvResolveLock(ctx context.Context, request *kvrpcpb.ResolveLockRequest) (*kvrpcpb.ResolveLockResponse, error) {
	answer, err := s.run(ctx, tikvrpc.CmdResolveLock, request, request.Context)
	response, _ := answer.(*kvrpcpb.ResolveLockResponse)
	return response, err
}
