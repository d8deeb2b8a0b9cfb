# Writes blocks of a file one by one, each durable when it is written (O_DSYNC), beside which files come and go.
# Counts the longest time between two writes, from SIGUSR1 on. Ended with SIGTERM it drops what is cached, reads all of it and compares. Its findings are in STATUS.*.
use strict;
use warnings;
use Fcntl;

my ($path, $blocks, $status) = @ARGV;
my ($stop, $n, $gap, %last) = (0, 0, 0);
$SIG{TERM} = sub { $stop = 1 };
$SIG{USR1} = sub { $gap = 0 };

sub now { open my $f, '<', '/proc/uptime' or die $!; return (split ' ', <$f>)[0] }
sub note {
    my ($what, $text) = @_;
    open my $f, '>', "$status.tmp" or die $!;
    print $f "$text\n";
    close $f;
    rename "$status.tmp", "$status.$what";
}
sub fail { note('failed', $_[0]); die $_[0] }

sysopen(my $file, $path, O_RDWR | O_CREAT | O_DSYNC) or fail("open: $!");
my $before = now();
until ($stop) {
    my $block = int rand $blocks;
    $n++;
    sysseek($file, $block * 4096, 0) or fail("seek: $!");
    my $got = syswrite($file, pack('Q<Q<', $n, $block) x 256);
    fail("write $n: $!") unless defined $got and $got == 4096;
    $last{$block} = $n;
    my $now = now();
    $gap = $now - $before if $now - $before > $gap;
    $before = $now;
    note('running', "$n $gap") if $n % 8 == 0;
    next if $n % 16;
    open my $other, '>', "$path.new" or fail("create: $!");
    print $other $n x 1000;
    close $other or fail("close: $!");
    rename "$path.new", "$path." . ($n / 16 % 64) or fail("rename: $!");
}
close $file or fail("close: $!");
system('sync; echo 3 > /proc/sys/vm/drop_caches') == 0 or fail('dropping caches');
sysopen($file, $path, O_RDONLY) or fail("open: $!");
for my $block (sort { $a <=> $b } keys %last) {
    sysseek($file, $block * 4096, 0) or fail("seek: $!");
    my $got = sysread($file, my $data, 4096);
    fail("read: $!") unless defined $got and $got == 4096;
    my $want = pack('Q<Q<', $last{$block}, $block) x 256;
    my ($is, $of) = unpack 'Q<Q<', $data;
    fail("block $block is write $is of $of, not $last{$block}") if $data ne $want;
}
note('done', "$n $gap");
