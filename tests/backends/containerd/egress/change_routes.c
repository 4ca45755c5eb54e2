/* Tries to change its network, and prints for each attempt whether the kernel refused it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
    struct nlmsghdr head;
    union {
        struct rtmsg route;
        struct fib_rule_hdr rule;
        struct ifaddrmsg address;
    } body;
    char attributes[256];
} message;

static void begin(int type, int size) {
    memset(&message, 0, sizeof message);
    message.head.nlmsg_len = NLMSG_LENGTH(size);
    message.head.nlmsg_type = type;
    message.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | (type == RTM_NEWROUTE || type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_REPLACE : 0);
}

static void add(int kind, const void *value, int size) {
    struct rtattr *attribute = (void *)((char *)&message + NLMSG_ALIGN(message.head.nlmsg_len));
    attribute->rta_type = kind;
    attribute->rta_len = RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), value, size);
    message.head.nlmsg_len = NLMSG_ALIGN(message.head.nlmsg_len) + RTA_LENGTH(size);
}

static void attempt(const char *what) {
    char answer[1024];
    int socket_ = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    int failed = socket_ < 0 || send(socket_, &message, message.head.nlmsg_len, 0) < 0;
    int error = failed ? errno : 0;
    if (!failed) {
        int length = recv(socket_, answer, sizeof answer, 0);
        struct nlmsghdr *head = (void *)answer;
        error = length > 0 && head->nlmsg_type == NLMSG_ERROR ? -((struct nlmsgerr *)NLMSG_DATA(head))->error : 0;
    }
    if (socket_ >= 0) close(socket_);
    /* Other errors would mean that the attempt itself was wrong. */
    printf("%s: %s\n", what, error == EPERM || error == EACCES ? "refused" : error ? strerror(error) : "changed");
}

static void attempt_write(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    int refused = file < 0 || write(file, text, strlen(text)) < 0;
    int error = errno;
    printf("%s: %s\n", path, !refused ? "changed" : error == EROFS || error == EACCES || error == EPERM ? "refused" : strerror(error));
}

static void route(int type, int kind, const char *to, int prefix) {
    struct in_addr address;
    inet_aton(to, &address);
    begin(type, sizeof message.body.route);
    message.body.route.rtm_family = AF_INET;
    message.body.route.rtm_dst_len = prefix;
    message.body.route.rtm_table = RT_TABLE_MAIN;
    message.body.route.rtm_protocol = RTPROT_STATIC;
    message.body.route.rtm_scope = RT_SCOPE_UNIVERSE;
    message.body.route.rtm_type = kind;
    add(RTA_DST, &address, sizeof address);
}

int main(void) {
    unsigned priority = 200;
    struct in_addr own;
    route(RTM_DELROUTE, RTN_UNREACHABLE, "10.0.0.0", 8);
    attempt("delete a route");
    route(RTM_NEWROUTE, RTN_BLACKHOLE, "198.51.100.77", 32);
    attempt("add a route");
    begin(RTM_DELRULE, sizeof message.body.rule);
    message.body.rule.family = AF_INET;
    add(FRA_PRIORITY, &priority, sizeof priority);
    attempt("delete a rule");
    priority = 50;
    begin(RTM_NEWRULE, sizeof message.body.rule);
    message.body.rule.family = AF_INET;
    message.body.rule.action = FR_ACT_TO_TBL;
    message.body.rule.table = RT_TABLE_MAIN;
    add(FRA_PRIORITY, &priority, sizeof priority);
    attempt("add a rule");
    inet_aton("198.51.100.78", &own);
    begin(RTM_NEWADDR, sizeof message.body.address);
    message.body.address.ifa_family = AF_INET;
    message.body.address.ifa_prefixlen = 32;
    message.body.address.ifa_index = 1;
    add(IFA_LOCAL, &own, sizeof own);
    attempt("add an address");
    attempt_write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0");
    attempt_write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0");
    attempt_write("/proc/sys/net/ipv4/conf/all/accept_local", "1");
    attempt_write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1");
    return 0;
}
