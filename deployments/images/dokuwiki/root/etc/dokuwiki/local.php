<?php
// Pages can be read by all, and written by those who are logged in.
$conf['title'] = 'A wiki of your own';
$conf['useacl'] = 1;
$conf['superuser'] = 'visitor';
$conf['disableactions'] = 'register';
$conf['updatecheck'] = 0;
$conf['useheading'] = 1;
