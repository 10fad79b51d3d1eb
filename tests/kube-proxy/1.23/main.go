// Runs the proxier of kube-proxy over one scene and prints the rules that it leaves in the
// kernel: what iptables-save and ip6tables-save say.
//
// It has to run in a network namespace of its own; record.sh makes one.
package main

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/pkg/proxy/iptables"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util/iptables"
	utiliptables "k8s.io/kubernetes/pkg/util/iptables"
	utilexec "k8s.io/utils/exec"
	"weft.invalid/scene"
)

// unmonitored leaves out the watch over the canaries.
type unmonitored struct{ utiliptables.Interface }

func (unmonitored) Monitor(utiliptables.Chain, []utiliptables.Table, func(), time.Duration, <-chan struct{}) {
}

func main() {
	told := scene.Read(false)
	if told.DetectLocal != "cluster-cidr" || !told.LocalhostNodePorts {
		scene.Check(fmt.Errorf("kube-proxy 1.23 knows the cluster's CIDR alone, and always has node ports on localhost"))
	}
	for _, family := range []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} {
		protocol, save := utiliptables.ProtocolIPv4, "iptables-save"
		if family == v1.IPv6Protocol {
			protocol, save = utiliptables.ProtocolIPv6, "ip6tables-save"
		}
		ipt := unmonitored{utiliptables.New(utilexec.New(), protocol)}
		detector := proxyutil.NewNoOpLocalDetector()
		for _, cidr := range told.CIDRs(family) {
			var err error
			detector, err = proxyutil.NewDetectLocalByCIDR(cidr, ipt)
			scene.Check(err)
		}
		proxier, err := iptables.NewProxier(ipt, scene.NoSysctl{}, utilexec.New(), time.Hour, 0,
			told.MasqueradeAll, told.MasqueradeBit, detector, told.Node, told.NodeIPs[family],
			events.NewFakeRecorder(1000), nil, told.NodePortAddresses)
		scene.Check(err)
		told.Tell(proxier)

		// The monitor's, which a goroutine would make at some time or other.
		for _, table := range []utiliptables.Table{utiliptables.TableMangle, utiliptables.TableNAT, utiliptables.TableFilter} {
			_, err := ipt.EnsureChain(table, "KUBE-PROXY-CANARY")
			scene.Check(err)
		}
		scene.Print(save)
	}
}
