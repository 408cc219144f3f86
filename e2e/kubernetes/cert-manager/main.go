// cert-manager's own controllers for Certificates and for issuers that need nothing from outside (self-signed, CA), without
// its program around them: that is a Go module of its own which refers to its parent by path, so that no module proxy can
// have it. No webhooks, no ACME, no leader election.
//
//	cert-manager KUBECONFIG
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cert-manager/cert-manager/pkg/controller"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
)

func main() {
	stop, done := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer done()
	factory, err := controller.NewContextFactory(stop, controller.ContextOptions{
		Kubeconfig:         os.Args[1],
		KubernetesAPIQPS:   20,
		KubernetesAPIBurst: 50,
		IssuerOptions:      controller.IssuerOptions{ClusterResourceNamespace: "cert-manager"},
		CertificateOptions: controller.CertificateOptions{
			CopiedAnnotationPrefixes: []string{"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/"},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	running := make(chan error)
	for name, constructor := range controller.Known() {
		made, err := constructor(factory)
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		go func() { running <- made.Run(2, stop) }()
	}
	shared, err := factory.Build("cert-manager")
	if err != nil {
		log.Fatal(err)
	}
	shared.SharedInformerFactory.Start(stop.Done())
	shared.KubeSharedInformerFactory.Start(stop.Done())
	shared.HTTP01ResourceMetadataInformersFactory.Start(stop.Done())
	log.Printf("%d controllers run", len(controller.Known()))
	select {
	case <-stop.Done():
		time.Sleep(time.Second)
	case err := <-running:
		log.Fatal(err)
	}
}
