/*
 * Runs in guests: puts the rings of a device under load and checks every byte that comes back.
 *
 *   ring-judge disk PATH SECTORS REQUESTS   random direct reads and writes, up to 16 at once
 *   ring-judge frames INTERFACE COUNT       Ethernet frames that a loop sends back, up to 32 at once
 *
 * Prints one line with what was done and the number of errors; the status is 0 if there were none.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512u
#define DEPTH 16
#define MAX_SECTORS 128u
#define MAX_PIECES 8
#define WINDOW 32
/* For experiments by IEEE 802. */
#define ETHERTYPE 0x88b5

static uint64_t random_state = 88172645463325252ull;

/* xorshift64: the same in every run. */
static uint32_t random_below(uint32_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % limit;
}

static uint32_t crc_table[256];

/* CRC-32C, bit-reflected. */
static void make_crc_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
		crc_table[i] = crc;
	}
}

static uint32_t crc32c(const uint8_t *bytes, size_t length)
{
	uint32_t crc = ~0u;
	while (length--)
		crc = (crc >> 8) ^ crc_table[(crc ^ *bytes++) & 0xff];
	return ~crc;
}

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(2);
}

/* A block of which each byte follows from `name` and `version`, and whose first words tell those and the checksum. */
struct block {
	uint32_t crc; /* of what follows */
	uint32_t name;
	uint32_t version;
	uint32_t words[];
};

static void fill_block(void *at, size_t length, uint32_t name, uint32_t version)
{
	struct block *block = at;
	uint32_t value = name * 2654435761u + version;
	block->name = name;
	block->version = version;
	for (size_t i = 0; i < (length - sizeof *block) / 4; i++)
		block->words[i] = value = value * 1664525u + 1013904223u;
	block->crc = crc32c((uint8_t *)at + 4, length - 4);
}

static int is_block(const void *at, size_t length, uint32_t name, uint32_t version)
{
	const struct block *block = at;
	return block->name == name && block->version == version &&
	       block->crc == crc32c((const uint8_t *)at + 4, length - 4);
}

/* --- disk --- */

struct request {
	struct iocb iocb;
	struct iovec pieces[MAX_PIECES];
	uint8_t *buffer;
	uint32_t sector, sectors;
	int is_write, is_busy;
};

static uint32_t *versions; /* by sector, as it was written last */
static uint8_t *writers, *readers; /* by sector: requests under way */
static unsigned errors;

static int is_free(uint32_t sector, uint32_t sectors, int is_write)
{
	for (uint32_t i = sector; i < sector + sectors; i++)
		if (writers[i] || (is_write && readers[i]))
			return 0;
	return 1;
}

/* Cuts the buffer into pieces of whole sectors, so that chains of many lengths come about. */
static int cut(struct request *request)
{
	uint32_t left = request->sectors, count = 0;
	uint8_t *at = request->buffer;
	while (left > 0) {
		uint32_t piece = count == MAX_PIECES - 1 ? left : 1 + random_below(left);
		request->pieces[count++] = (struct iovec){ at, piece * SECTOR };
		at += piece * SECTOR;
		left -= piece;
	}
	return (int)count;
}

static void submit(aio_context_t aio, int fd, struct request *request, int is_write, uint32_t sector, uint32_t sectors)
{
	struct iocb *list[1] = { &request->iocb };
	request->is_write = is_write;
	request->is_busy = 1;
	request->sector = sector;
	request->sectors = sectors;
	for (uint32_t i = 0; i < sectors; i++) {
		if (is_write)
			fill_block(request->buffer + i * SECTOR, SECTOR, sector + i, ++versions[sector + i]);
		(is_write ? writers : readers)[sector + i]++;
	}
	if (!is_write)
		memset(request->buffer, 0xee, sectors * SECTOR);
	memset(&request->iocb, 0, sizeof request->iocb);
	request->iocb.aio_data = (uintptr_t)request;
	request->iocb.aio_lio_opcode = is_write ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV;
	request->iocb.aio_fildes = (uint32_t)fd;
	request->iocb.aio_buf = (uintptr_t)request->pieces;
	request->iocb.aio_nbytes = (uint64_t)cut(request);
	request->iocb.aio_offset = (int64_t)sector * SECTOR;
	if (syscall(SYS_io_submit, aio, 1, list) != 1)
		die("io_submit");
}

static void finish(struct request *request, int64_t result)
{
	if (result != (int64_t)request->sectors * SECTOR)
		errors++;
	for (uint32_t i = 0; i < request->sectors; i++) {
		uint32_t sector = request->sector + i;
		(request->is_write ? writers : readers)[sector]--;
		if (!request->is_write && !is_block(request->buffer + i * SECTOR, SECTOR, sector, versions[sector]))
			errors++;
	}
	request->is_busy = 0;
}

static int reap(aio_context_t aio, int least)
{
	struct io_event events[DEPTH];
	int count = (int)syscall(SYS_io_getevents, aio, least, DEPTH, events, NULL);
	if (count < 0)
		die("io_getevents");
	for (int i = 0; i < count; i++)
		finish((struct request *)(uintptr_t)events[i].data, events[i].res);
	return count;
}

static int run_disk(const char *path, uint32_t disk, unsigned wanted)
{
	static struct request requests[DEPTH];
	int fd = open(path, O_RDWR | O_DIRECT);
	aio_context_t aio = 0;
	unsigned done = 0, busy = 0;
	uint32_t next = 0; /* sectors below hold blocks */
	if (fd < 0)
		die(path);
	if (syscall(SYS_io_setup, DEPTH, &aio) < 0)
		die("io_setup");
	versions = calloc(disk, sizeof *versions);
	writers = calloc(disk, 1);
	readers = calloc(disk, 1);
	for (int i = 0; i < DEPTH; i++)
		if (posix_memalign((void **)&requests[i].buffer, 4096, MAX_SECTORS * SECTOR))
			die("memory");
	while (done < wanted || busy > 0 || next < disk) {
		struct request *request = NULL;
		for (int i = 0; i < DEPTH && request == NULL; i++)
			if (!requests[i].is_busy)
				request = &requests[i];
		if (request == NULL || (done >= wanted && next >= disk)) {
			busy -= (unsigned)reap(aio, 1);
			continue;
		}
		uint32_t sectors = MAX_SECTORS, sector = next;
		int is_write = next < disk || random_below(100) < 45;
		if (next < disk) {
			next += sectors;
		} else {
			sectors = 1u << random_below(8);
			sector = random_below(disk - sectors + 1);
		}
		if (!is_free(sector, sectors, is_write)) {
			busy -= (unsigned)reap(aio, 1);
			continue;
		}
		submit(aio, fd, request, is_write, sector, sectors);
		done++;
		busy++;
		if (random_below(50) == 0 && fdatasync(fd))
			errors++;
	}
	for (uint32_t sector = 0; sector < disk; sector += MAX_SECTORS) {
		submit(aio, fd, &requests[0], 0, sector, MAX_SECTORS);
		while (requests[0].is_busy)
			reap(aio, 1);
	}
	if (fdatasync(fd))
		errors++;
	printf("disk %s requests %u errors %u\n", path, done, errors);
	return errors ? 1 : 0;
}

/* --- frames --- */

#define HEADER 14u
#define MAX_FRAME 1514u
/* Name of frames that only find out whether the link is up: what is sent before is lost. */
#define HELLO 0xffffffffu
#define HELLO_BYTES 48u

static void fill_frame(uint8_t *bytes, const char *address, uint32_t length, uint32_t name)
{
	memcpy(bytes, address, 6);
	memcpy(bytes + 6, address, 6);
	bytes[12] = ETHERTYPE >> 8;
	bytes[13] = ETHERTYPE & 0xff;
	fill_block(bytes + HEADER, length, name, length);
}

/* Returns when a frame came back. */
static void say_hello(int fd, uint8_t *bytes, const char *address)
{
	for (int tries = 0; tries < 100; tries++) {
		fill_frame(bytes, address, HELLO_BYTES, HELLO);
		send(fd, bytes, HEADER + HELLO_BYTES, 0);
		struct pollfd poller = { .fd = fd, .events = POLLIN };
		while (poll(&poller, 1, 200) > 0) {
			struct sockaddr_ll from;
			socklen_t from_length = sizeof from;
			if (recvfrom(fd, bytes, MAX_FRAME, 0, (struct sockaddr *)&from, &from_length) > 0 &&
			    from.sll_pkttype != PACKET_OUTGOING)
				return;
		}
	}
}

static int run_frames(const char *name, unsigned wanted)
{
	struct ifreq interface;
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE) };
	/* Of no protocol until it is bound: it would get frames of all interfaces. */
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	unsigned sent = 0, came = 0, first_error = 0;
	static uint32_t lengths[WINDOW];
	static uint32_t frame[(MAX_FRAME + 8) / 4];
	uint8_t *bytes = (uint8_t *)frame + 2; /* so that the contents are aligned */
	memset(&interface, 0, sizeof interface);
	strncpy(interface.ifr_name, name, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &interface) < 0)
		die(name);
	address.sll_ifindex = (int)if_nametoindex(name);
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
		die("bind");
	/* Straight to the driver: the queueing discipline forgets frames whenever the link state is looked at anew. */
	int one = 1;
	if (setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof one) < 0)
		die("PACKET_QDISC_BYPASS");
	say_hello(fd, bytes, interface.ifr_hwaddr.sa_data);
	while (came < wanted) {
		if (sent < wanted && sent - came < WINDOW) {
			uint32_t length = 48 + 4 * random_below((MAX_FRAME - HEADER - 48) / 4 + 1);
			lengths[sent % WINDOW] = length;
			fill_frame(bytes, interface.ifr_hwaddr.sa_data, length, sent);
			while (send(fd, bytes, HEADER + length, 0) != (ssize_t)(HEADER + length)) {
				if (errno != ENOBUFS)
					die("send");
				usleep(1000); /* the ring is full */
			}
			sent++;
			continue;
		}
		struct pollfd poller = { .fd = fd, .events = POLLIN };
		struct sockaddr_ll from;
		socklen_t from_length = sizeof from;
		if (poll(&poller, 1, 20000) <= 0) {
			printf("frames %s: %u of %u came back, errors %u from frame %u on\n", name, came, sent, errors, first_error);
			return 1;
		}
		ssize_t length = recvfrom(fd, bytes, MAX_FRAME, 0, (struct sockaddr *)&from, &from_length);
		if (length < 0)
			die("recvfrom");
		if (from.sll_pkttype == PACKET_OUTGOING || is_block(bytes + HEADER, HELLO_BYTES, HELLO, HELLO_BYTES))
			continue;
		uint32_t expected = lengths[came % WINDOW];
		if ((uint32_t)length != HEADER + expected || !is_block(bytes + HEADER, expected, came, expected))
			if (errors++ == 0)
				first_error = came;
		came++;
	}
	printf("frames %s sent %u errors %u\n", name, sent, errors);
	return errors ? 1 : 0;
}

int main(int argc, char **argv)
{
	make_crc_table();
	if (argc == 5 && !strcmp(argv[1], "disk"))
		return run_disk(argv[2], (uint32_t)atoi(argv[3]), (unsigned)atoi(argv[4]));
	if (argc == 4 && !strcmp(argv[1], "frames"))
		return run_frames(argv[2], (unsigned)atoi(argv[3]));
	fprintf(stderr, "usage: ring-judge disk PATH SECTORS REQUESTS | frames INTERFACE COUNT\n");
	return 2;
}
